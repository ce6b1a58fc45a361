"""Create the engine that the settings choose."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from server.config import ConfigError, Settings
from server.engine.admission import check_room
from server.engine.interface import Engine
from server.engine.local import LocalEngine
from server.engine.slots import slots_for


def engine_for(settings: Settings, stores: Callable[[], dict[str, tuple[str, str]]]) -> Engine:
    """The engine, not started yet; joins the cluster if there is one. ``stores`` returns this server's store ids.

    Raises ConfigError for a missing device or cluster, or if the cluster's servers use other stores.
    """
    if settings.engine == "local":
        slots = slots_for(settings)
        check_room(settings, slots)
        return LocalEngine(settings, slots)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("this engine needs an extra: pip install 'pafu[ray]'", "engine")
    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join

    join(settings)
    engine = ClusterEngine(settings, stores=stores())
    engine.check_others()
    return engine
