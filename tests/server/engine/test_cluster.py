"""Promise: all servers share a cluster's workers. When a node, server or actor is lost, sessions move; a new node adds
places; incompatible members are named."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest

from server import __version__
from server.config import ConfigError, Settings
from server.config.devices import Slot
from server.engine.assignment import assign
from server.engine.cluster import host
from server.engine.cluster.messages import Admit, Heard, Hello, Told, decode, encode
from server.engine.cluster.nodes import workers
from server.ipc.messages import Fragment
from server.live.resume_point import ResumePoint
from server.states import WorkerState
from tests.server.engine.engines import CACHE, PATIENCE, PATTERN, ROOT, order, rest, take

STANDING = {"pictures": 72, "lead_seconds": 0.1}


async def until(engine, holds) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await engine.room_changed(0.05)


def states(engine) -> list[str]:
    return [worker.state.value for worker in engine.status().workers]


def held(engine) -> list[int]:
    return [worker.sessions for worker in engine.status().workers]


async def two_fronts(start_ray, **settings):
    """Two servers that know both workers."""
    fronts = [await start_ray(**settings) for _ in range(2)]
    for front in fronts:
        await until(front, lambda front=front: states(front) == ["ready", "ready"])
    return fronts


async def begun(front, name: str):
    """A session after its first chunk, whose viewer does not move, and what is needed to continue it."""
    line = await front.open(order(name, **STANDING))
    await line.playhead(0.0)
    memory = ResumePoint(front.observer.spec, CACHE)
    memory.add((await take(line, 1))[0])
    return line, memory


async def goes_on(front, name: str, memory) -> None:
    line = await front.open(order(name, pictures=72, past=memory.past()))
    assert [event.index for event in await rest(line) if isinstance(event, Fragment)] == [1, 2, 3, 4, 5]


async def ending(line):
    """How a session ends whose viewer does not move."""
    async with asyncio.timeout(PATIENCE):
        async for event in line.events():
            last = event
    return last


async def test_two_servers_see_one_account_and_one_takes_over_what_the_other_had(start_ray) -> None:
    one, two = await two_fronts(start_ray, max_sessions=2)
    line, memory = await begun(one, "sess_1")
    await until(two, lambda: sum(held(two)) == 1)
    other, _ = await begun(two, "sess_2")
    await until(one, lambda: sum(held(one)) == 2)
    assert one.status().cache_held_bytes == 2 * one.cache_bytes(CACHE)
    await goes_on(two, "sess_1", memory)  # its viewer came to this one
    assert (await ending(line)).code == "session_elsewhere"
    assert not one.pool.members[0].lines and not one.pool.members[1].lines
    await other.close()
    await until(one, lambda: held(one) == [0, 0])


async def test_a_silent_server_frees_its_places_and_an_unused_actor_ends(monkeypatch) -> None:
    monkeypatch.setattr(host, "LOOK_SECONDS", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings, over = Settings(model="test-tiny", device="cpu"), asyncio.Event()
    assignment = assign(settings, Slot("0", "cpu", 1, 1.0), 1, (sys.executable, str(PATTERN)))
    hosted = host.Host(encode(assignment), over.set)
    for front in ("dead", "alive"):
        await hosted.hello(encode(Hello(front=front, version="1", stores={})))
    for front in ("dead", "alive"):
        while decode(await hosted.hear(front), Heard).report.status.state is not WorkerState.READY:
            pass
        await hosted.tell(front, encode([Admit(order=order(f"of_{front}", pictures=None), displaced=[])]))
    monkeypatch.setattr(host, "FRONT_SILENT", 0.2)
    async with asyncio.timeout(PATIENCE):
        while set(decode(await hosted.hear("alive"), Heard).report.held) != {"of_alive"}:
            pass
        monkeypatch.setattr(host, "ALONE_SECONDS", 0.2)
        await over.wait()
    assert hosted._member.state is WorkerState.STOPPED and not hosted._member.lines


async def test_a_drain_moves_the_sessions_of_every_server_and_is_taken_back_by_any(start_ray) -> None:
    one, two = await two_fronts(start_ray)
    mine, _ = await begun(one, "sess_1")
    (holder,) = [worker.worker for worker in one.status().workers if worker.sessions]
    await until(two, lambda: sum(held(two)) == 1)
    assert two.drain(holder).state is WorkerState.DRAINING
    ended = await ending(mine)
    assert (ended.code, "being drained" in ended.message) == ("preempted", True)
    await until(one, lambda: sorted(states(one)) == ["drained", "ready"])
    await one.undrain(holder)
    await until(two, lambda: states(two) == ["ready", "ready"])


async def test_a_killed_actor_comes_back_and_its_session_goes_on(start_ray) -> None:
    (front, _) = await two_fronts(start_ray)
    line, memory = await begun(front, "sess_1")
    (holder,) = [worker for worker in front.status().workers if worker.sessions]
    actor = int(Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(actor, signal.SIGKILL)
    ended = await ending(line)
    assert ended.code == "worker_failed" and holder.worker in ended.message
    await goes_on(front, "sess_1", memory)
    await until(front, lambda: states(front) == ["ready", "ready"])
    with pytest.raises(ProcessLookupError):
        os.kill(holder.pid, 0)  # the worker went with its actor


async def test_a_node_that_comes_adds_places_and_one_that_is_killed_costs_a_move(start_ray, ray_cluster) -> None:
    front = await start_ray(max_sessions=32)
    await until(front, lambda: states(front) == ["ready", "ready"])
    first = {worker.worker for worker in front.status().workers}
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, node_ip_address="127.0.0.4")
    await until(front, lambda: states(front) == ["ready"] * 3)
    (there,) = [member for member in front.pool.members if member.slot.worker not in first]
    lines = []
    while not there.lines:
        lines.append(await begun(front, f"sess_{len(lines)}"))
    (moved,) = there.lines
    ray_cluster.remove_node(node, allow_graceful=False)
    for line, memory in lines:
        if line.id == moved:
            assert (await ending(line)).code == "worker_failed"
            await goes_on(front, line.id, memory)
        else:
            *chunks, ended = await rest(line)
            assert [chunk.index for chunk in chunks] == [1, 2, 3, 4, 5] and ended.reason == "complete"
    await until(front, lambda: states(front) == ["ready", "ready"])


async def test_the_sessions_of_a_node_that_ray_will_take_away_move_before_it_goes(start_ray, ray_cluster) -> None:
    from ray._raylet import GcsClient

    fronts = await two_fronts(start_ray, max_sessions=32)
    first = {worker.worker for worker in fronts[0].status().workers}
    node = ray_cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, node_ip_address="127.0.0.5")
    for front in fronts:
        await until(front, lambda front=front: states(front) == ["ready"] * 3)
    (there,) = [member for member in fronts[0].pool.members if member.slot.worker not in first]
    lines = []
    while not there.lines:
        lines.append(await begun(fronts[0], f"sess_{len(lines)}"))
    preemption, soon = 2, int(1000 * (time.time() + 3600))  # seconds enough for any machine
    accepted, _ = GcsClient(address=ray_cluster.address).drain_node(node.node_id, preemption, "test", soon)
    assert accepted
    line, memory = lines[-1]
    ended = await ending(line)
    assert (ended.code, "being drained" in ended.message) == ("preempted", True)
    await goes_on(fronts[0], line.id, memory)
    for front in fronts:
        await until(front, lambda front=front: sorted(states(front)) == ["drained", "ready", "ready"])
    ray_cluster.remove_node(node, allow_graceful=False)
    for front in fronts:
        await until(front, lambda front=front: states(front) == ["ready", "ready"])


async def test_a_server_of_another_kind_is_told_so_and_disturbs_nobody(start_ray, monkeypatch) -> None:
    front = await start_ray(stores={"sessions": ("one", "/srv/x")})
    await until(front, lambda: states(front) == ["ready", "ready"])
    others = {
        "run Pafu 0.1.0, this server 9.9: set another --ray-namespace": {"version": "9.9"},
        "have the weights None, but this server has '/srv/other'": {"weights": "/srv/other"},
        "PAFU_SESSIONS is /srv/x on this server and /srv/x on the others, which are different places": {
            "stores": {"sessions": ("another", "/srv/x")}
        },
    }
    for said, difference in others.items():
        with monkeypatch.context() as patch:
            patch.setattr("server.engine.cluster.engine.__version__", difference.pop("version", __version__))
            stranger = await start_ray(**difference)
        with pytest.raises(ConfigError, match=re.escape(said)):
            stranger.check_others()
        await until(stranger, lambda stranger=stranger: states(stranger) == ["failed", "failed"])
        assert said in stranger.status().message
        await stranger.stop(0.0)
    *chunks, ended = await rest(await front.open(order()))
    assert ended.reason == "complete" and len(chunks) == 3


def test_another_version_of_ray_is_named(ray_cluster, tmp_path, monkeypatch) -> None:
    import ray

    from server.engine.cluster.join import join

    monkeypatch.setattr(ray, "__version__", "1.2.3")
    settings = Settings(model="test-tiny", engine="ray", ray_address=ray_cluster.address, data_dir=tmp_path)
    with pytest.raises(ConfigError, match="Version mismatch.*started with: Ray: .*Ray: 1.2.3") as refused:
        join(settings)
    assert "\n" not in str(refused.value) and not ray.is_initialized()


async def test_a_node_without_weights_is_named(start_ray) -> None:
    front = await start_ray(weights="/srv/nowhere")
    await front.settled()
    assert states(front) == ["failed", "failed"]
    assert "/srv/nowhere: dit.safetensors is missing" in front.status().message


async def test_a_server_with_other_settings_replaces_unused_workers(start_ray) -> None:
    """Neither those that could not start, nor those that serve other settings."""
    for settings, after in (({"weights": "/srv/nowhere"}, "failed"), ({}, "ready"), ({"model": "test-wan"}, "ready")):
        front = await start_ray(**settings)
        front.check_others()
        await until(front, lambda front=front, after=after: states(front) == [after] * 2)
        await front.stop(10.0)


async def test_what_the_cluster_has_no_room_for_is_said_at_the_start(start_ray, caplog) -> None:
    for device in ("cuda:5", "cpu+cpu"):  # its nodes have one core each
        front = await start_ray(device=device)
        assert f"no node of the Ray cluster has room for a worker on '{device}'; waiting for one" in caplog.text
        assert f"'{device}'" in front.status().message
    several = await start_ray(device="cpu")
    await until(several, lambda: states(several) == ["ready", "ready"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere", "'nowhere' is not the address of a Ray cluster"),
        ("ray://127.0.0.1:10001", "is for Ray's clients; give host:port"),
        ("silent", "is not a Ray cluster, something else listens there"),
        ("10.0.0.1:port", "give host:port"),
        ("free", "there is no Ray cluster at"),
    ],
)
def test_an_address_without_a_cluster_is_named(tmp_path, address, said) -> None:
    pytest.importorskip("ray")
    from server.engine.cluster.join import join

    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        if address == "free":
            other.close()
        address = place if address in ("free", "silent") else address
        with pytest.raises(ConfigError, match=said) as refused:
            join(Settings(model="test-tiny", engine="ray", ray_address=address, data_dir=tmp_path))
    assert refused.value.fields == ("ray_address",) and "\n" not in str(refused.value)


def test_an_address_from_the_environment_is_named_by_its_variable(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    from server.engine.cluster.join import join

    monkeypatch.setenv("RAY_ADDRESS", "garbage")
    with pytest.raises(ConfigError, match="RAY_ADDRESS: 'garbage' is not the address"):
        join(Settings(model="test-tiny", engine="ray", data_dir=tmp_path))


# ---- which workers a cluster has


def node(name: str, alive: bool = True, **resources: float):
    return {"NodeID": name * 32, "Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("auto", {"aaaaaaaa-0": "cuda:0", "aaaaaaaa-1": "cuda:0"}),
        ("cuda", {"aaaaaaaa-0": "cuda:0", "aaaaaaaa-1": "cuda:0"}),
        ("cpu", {"aaaaaaaa-0": "cpu", "bbbbbbbb-0": "cpu"}),
        ("cuda:3", {}),
        ("cuda:0+cuda:1", {"aaaaaaaa-0": "cuda:0+cuda:1"}),
        ("cpu+cpu", {"aaaaaaaa-0": "cpu+cpu", "bbbbbbbb-0": "cpu+cpu"}),
    ],
)
def test_each_device_of_each_living_node_has_a_worker(device, found) -> None:
    nodes = [node("a", GPU=2.0, CPU=8.0), node("b", CPU=4.0), node("c", alive=False, GPU=8.0, CPU=8.0), node("d")]
    wanted = workers(nodes, (device,), 0)
    assert {name: slot.device for name, (_, slot) in wanted.items()} == found


def test_a_node_gets_no_more_cpu_workers_than_it_has_cores() -> None:
    assert list(workers([node("b", CPU=3.0)], ("cpu+cpu", "cpu", "cpu+cpu"), 0)) == ["bbbbbbbb-0", "bbbbbbbb-1"]
    assert list(workers([node("b", CPU=2.0)], ("cpu:3",), 0)) == ["bbbbbbbb-0", "bbbbbbbb-1"]


def test_where_no_node_has_a_gpu_auto_means_the_cpu() -> None:
    assert workers([node("b", CPU=4.0), node("d")], ("auto",), 0) == {
        "bbbbbbbb-0": ("b" * 32, Slot("bbbbbbbb-0", "cpu", 4, 1.0))
    }


def test_what_crosses_is_bytes_of_known_structs() -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(encode([{"type": "configure"}]), list[Told])
