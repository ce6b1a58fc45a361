"""Create the engine that the settings choose."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from server.config import ConfigError, Settings
from server.engine.admission import check_room
from server.engine.interface import Engine
from server.engine.local import LocalEngine
from server.engine.slots import slots_for

StoreIds = Callable[[], dict[str, tuple[str, str]]]


def engine_for(settings: Settings, known_stores: StoreIds, make_stores: StoreIds) -> Engine:
    """The engine, not started yet; joins the cluster if there is one.

    ``known_stores`` returns the ids of this server's stores as far as they exist; ``make_stores``, called at the
    engine's start, creates the others. Raises ConfigError for a missing device or cluster, or if the cluster's servers
    use other stores.
    """
    if settings.engine == "local":
        slots = slots_for(settings)
        check_room(settings, slots)
        return LocalEngine(settings, slots)
    require_ray()
    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join

    join(settings)
    engine = ClusterEngine(settings, stores=known_stores(), make_stores=make_stores)
    engine.check_others()
    return engine


def require_ray() -> None:
    """Raises ConfigError if the extra is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("this engine needs an extra: pip install 'pafu[ray]'", "engine")
