"""Engines without a front: with workers on this machine, and on a Ray cluster of two nodes on loopback."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from server.config import Settings
from server.engine.local import LocalEngine
from server.engine.pooled import PooledEngine
from tests.server.engine.engines import PATTERN, ROOT, local

PATTERN_COMMAND = (sys.executable, str(PATTERN))
Start = Callable[..., Awaitable[PooledEngine]]


@pytest.fixture
async def start_local(monkeypatch, tmp_path) -> AsyncIterator[Start]:
    """An engine with local workers and these settings, ready; it is stopped after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running: list[LocalEngine] = []

    async def start(command: tuple[str, ...] = PATTERN_COMMAND, **settings: Any) -> LocalEngine:
        given = {"model": "test-tiny", "device": "cpu", "data_dir": tmp_path, "max_sessions": 4, **settings}
        engine = local(Settings(**given), command)
        running.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in running:
        await engine.stop(0.0)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two nodes with a place for one CPU worker each. Ray treats 127.0.0.1 as the machine's other address."""
    if importlib.util.find_spec("ray") is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_RAY") == "1" else pytest.skip
        no("no ray; pip install 'pafu[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)  # of the actors, which Ray starts
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
    head = {**node, "_system_config": quick, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**node, node_ip_address="127.0.0.3")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
async def start_ray(ray_cluster, tmp_path) -> AsyncIterator[Start]:
    """An engine over the cluster, in its own namespace; its actors end after the test."""
    import ray

    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join

    running: list[ClusterEngine] = []
    namespace = f"test-{secrets.token_hex(4)}"

    async def start(stores: Any = None, **settings: Any) -> ClusterEngine:
        given = {"model": "test-tiny", "device": "cpu", "data_dir": tmp_path, "max_sessions": 4, **settings}
        chosen = Settings(**given, engine="ray", ray_address=ray_cluster.address, ray_namespace=namespace)
        if not running:
            join(chosen)
        running.append(ClusterEngine(chosen, PATTERN_COMMAND, stores))
        await running[-1].start()
        return running[-1]

    yield start
    for engine in running:
        await engine.stop(0.0)
    for found in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(found["name"], found["namespace"]))
    ray.shutdown()
