"""Which engine the settings mean."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from server.config import ConfigError, Settings
from server.engine.admission import check_room
from server.engine.interface import Engine
from server.engine.local import LocalEngine
from server.engine.slots import slots_for


def engine_for(settings: Settings, stores: Callable[[], dict[str, tuple[str, str]]]) -> Engine:
    """The engine, not yet started; a cluster is joined. ``stores`` tells where this server keeps jobs and sessions.
    Raises ConfigError: no such device here, no such cluster, or one whose servers keep them elsewhere."""
    if settings.engine == "local":
        slots = slots_for(settings)
        check_room(settings, len(slots))
        return LocalEngine(settings, slots)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("its workers need an extra: pip install 'pafu[ray]'", "engine")
    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join

    join(settings)
    engine = ClusterEngine(settings, stores=stores())
    engine.check_others()
    return engine
