"""Promise: killing a node of a cluster, and then a server, costs viewers and jobs no picture.

The long version, with an added node and a restarted database, is ``python tests/soak/cluster.py``.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.soak.cluster import Run, ray_nodes

CHUNKS = 24
PATIENCE = 240.0  # a test that waits longer hangs; nothing is measured with it


@pytest.fixture
def nodes():
    pytest.importorskip("ray", reason="pip install 'pafu[ray]'")
    with ray_nodes() as cluster:
        yield cluster


async def has_come(run: Run, chunks: int) -> None:
    while not all(len(viewer.arrivals) >= chunks for viewer in run.viewers):
        await asyncio.sleep(0.05)


async def kill_a_node_and_a_server(run: Run) -> None:
    (node,) = run.cluster.worker_nodes
    await run.event("a node is killed", lambda: run.cluster.remove_node(node, allow_graceful=False))
    await has_come(run, 8)
    await run.event("a server is killed", run.fronts[0].kill)


@pytest.mark.proof
async def test_a_killed_node_and_a_killed_server_cost_no_picture(nodes, tmp_path) -> None:
    run = Run(tmp_path, nodes, f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    try:
        async with asyncio.timeout(PATIENCE):
            await run.start()
            report = await run.watched(CHUNKS, 3, kill_a_node_and_a_server)
    finally:
        run.stop()
    assert report["viewers_with_a_missing_or_repeated_picture"] == [] == report["failures"]
    assert report["chunks"] == [CHUNKS] * 3
    assert (report["jobs"], report["jobs_lost"]) == (2, [])
    assert [len(viewer.parts) for viewer in run.viewers] != [1, 1, 1], "nobody's server was killed"
