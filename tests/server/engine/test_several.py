"""Promise: several devices form one server; when one fails, its sessions move and the others are not affected."""

from __future__ import annotations

import asyncio
import os
import signal
import stat

import httpx
import numpy as np
import pytest

from server.states import WorkerState
from tests.server.engine.engines import PATIENCE, order, rest, take

TWO = {"device": "cpu:2", "threads": 2, "max_sessions": 4}


def states(engine) -> list[str]:
    return [worker.state.value for worker in engine.status().workers]


def held(engine) -> list[int]:
    return [worker.sessions for worker in engine.status().workers]


async def until(engine, holds) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await engine.room_changed(0.05)


async def both_ready(engine) -> None:
    await until(engine, lambda: states(engine) == ["ready", "ready"])


def same_film(one, two) -> bool:
    """Whether all pictures are equal up to the differences of a fresh encoder; one step of the bar is 9 or more."""
    pair = (one.pictures().astype(int), two.pictures().astype(int))
    return pair[0].shape == pair[1].shape and np.abs(pair[0] - pair[1]).mean(axis=(1, 2, 3)).max() < 1.5


async def two_viewers(server, viewer_of, first, second, pictures: int = 72):
    """One viewer on each worker, after their first chunk."""
    viewers = [viewer_of(first), viewer_of(second)]
    for seed, viewer in enumerate(viewers, 1):
        await viewer.start(num_frames=pictures, seed=seed)
        await viewer.until("video.chunk_metadata")
    assert held(server.engine) == [1, 1]
    return viewers


def chunks(viewer) -> list[int]:
    return [said["transport_chunk_index"] for said in viewer.messages if said["type"] == "video.chunk_metadata"]


async def test_sessions_are_spread_and_stay_where_they_are(start_local) -> None:
    engine = await start_local(**TWO)
    await both_ready(engine)
    lines = [await engine.open(order(f"sess_{number}", pictures=None)) for number in range(2)]
    assert held(engine) == [1, 1]
    lines += [await engine.open(order(f"sess_{number}", pictures=None)) for number in range(2, 4)]
    assert held(engine) == [2, 2]
    homes = [list(member.lines) for member in engine.pool.members]
    await lines[0].close()
    await take(lines[1], 3)
    assert homes[1] == list(engine.pool.members[1].lines) and homes[0][1:] == list(engine.pool.members[0].lines)


async def test_a_dead_worker_s_viewer_goes_on_in_the_other_at_once_and_its_neighbour_sees_nothing(
    serve, viewer_of
) -> None:
    server = await serve(**TWO)
    await both_ready(server.engine)
    undisturbed = [await server.watch(num_frames=72, seed=seed) for seed in (1, 2)]
    broken = server.engine.pool.members[0].supervisor
    broken.command = ("/bin/sleep", "3600")  # the device does not come back
    async with server.connect() as one, server.connect() as two:
        moved, neighbour = await two_viewers(server, viewer_of, one, two)
        os.kill(broken.pid, signal.SIGKILL)
        assert "SIGKILL" in (await moved.until("session.interrupted"))["reason"]
        for viewer in (moved, neighbour):
            assert (await viewer.until("session.done"))["reason"] == "complete"
            assert chunks(viewer) == [0, 1, 2, 3, 4, 5]
    assert same_film(moved, undisturbed[0]) and same_film(neighbour, undisturbed[1])
    assert not [said for said in neighbour.messages if said["type"] == "session.interrupted"]
    assert states(server.engine)[1] == "ready" and states(server.engine)[0] != "ready"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert (await http.get("/readyz")).status_code == 200
        health = (await http.get("/health")).json()
    assert [(worker["worker"], worker["device"]) for worker in health["workers"]] == [("0", "cpu"), ("1", "cpu")]
    assert "restarting" in health["workers"][0]["reason"] and health["workers"][1]["reason"] == ""


async def test_a_session_of_a_dead_worker_waits_when_the_other_is_full(serve, viewer_of) -> None:
    server = await serve(**{**TWO, "max_sessions": 2})
    await both_ready(server.engine)
    async with server.connect() as one, server.connect() as two:
        moved, neighbour = await two_viewers(server, viewer_of, one, two)
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
        for viewer in (moved, neighbour):
            assert (await viewer.until("session.done"))["reason"] == "complete"
            assert chunks(viewer) == [0, 1, 2, 3, 4, 5]


async def test_a_device_that_cannot_start_takes_nobody_down(start_local, monkeypatch) -> None:
    monkeypatch.setattr("server.engine.supervisor.FIRST_DELAY", 0.001)
    engine = await start_local(**TWO)
    engine.pool.members[1].supervisor.command = ("/bin/sh", "-c", "echo no such device >&2; exit 1")
    await until(engine, lambda: states(engine) == ["ready", "failed"])
    assert engine.status().workers[1].message.startswith("exit status 1: no such device; that was failure ")
    assert engine.status().state.value == "ready" and engine.status().max_sessions == 4
    *made, ended = await rest(await engine.open(order()))
    assert ended.reason == "complete" and len(made) == 3


async def test_jobs_fill_what_viewers_leave_on_every_worker(serve) -> None:
    server = await serve(**TWO)
    await both_ready(server.engine)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as http:
        for seed in range(2):
            order = {"prompt": "sleep", "num_frames": 24, "seed": seed}
            assert (await http.post("/v1/videos", json=order)).status_code == 200
        await until(server.engine, lambda: held(server.engine) == [1, 1])
        await until(server.engine, lambda: held(server.engine) == [0, 0])


async def test_metrics_tell_each_worker_apart(serve) -> None:
    server = await serve(**TWO)
    await both_ready(server.engine)
    line = await server.engine.open(order(pictures=None))
    await take(line, 1)
    observer = server.engine.observer
    await observer.gather()
    read = observer.metrics.read
    for number, sessions in (("0", 1), ("1", 0)):
        labels = {"worker": number}
        assert read("pafu_worker_state", **labels, device="cpu", state="ready") == 1
        assert (read("pafu_worker_sessions", **labels), read("pafu_worker_sessions_limit", **labels)) == (sessions, 2)
        assert read("pafu_worker_cache_reserved_bytes", **labels) == sessions * server.engine.cache_bytes(line.cache)
    limits = [read("pafu_worker_cache_limit_bytes", worker=number) for number in ("0", "1")]
    assert read("pafu_kv_cache_limit_bytes") == sum(limits) == server.engine.status().cache_room_bytes
    assert read("pafu_worker_chunks_total", worker="0") >= 1 and read("pafu_worker_chunks_total", worker="1") == 0
    assert read("pafu_worker_busy_seconds_total", worker="0") > 0
    await line.close()


# ---- draining


async def test_a_drained_worker_s_viewers_move_and_its_process_ends_while_the_other_serves(serve, viewer_of) -> None:
    server = await serve(**TWO)
    await both_ready(server.engine)
    undisturbed = await server.watch(num_frames=120, seed=1)
    secret = server.front.access.operator.path
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    headers = {"authorization": f"Bearer {secret.read_text().strip()}"}
    async with (
        server.connect() as one,
        server.connect() as two,
        httpx.AsyncClient(base_url=server.url, trust_env=False, headers=headers, timeout=PATIENCE) as http,
    ):
        moved, neighbour = await two_viewers(server, viewer_of, one, two, pictures=120)
        pid = server.engine.status().workers[0].pid
        draining = (await http.post("/v1/workers/0/drain")).json()
        assert (draining["worker"], draining["status"], draining["sessions"]) == ("0", "draining", 1)
        assert "being drained" in (await moved.until("session.interrupted"))["reason"]
        for viewer in (moved, neighbour):
            assert (await viewer.until("session.done"))["reason"] == "complete"
            assert chunks(viewer) == list(range(10))
        await until(server.engine, lambda: states(server.engine) == ["drained", "ready"])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        refused = await http.post("/v1/workers/1/drain")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "last_worker")
        assert (await http.delete("/v1/workers/0/drain")).json()["status"] == "starting"
        await both_ready(server.engine)
    assert same_film(moved, undisturbed)
    assert server.engine.status().workers[0].restarts == 0
    assert server.engine.observer.metrics.read("pafu_worker_restarts_total", worker="0", reason="exited") == 0


async def test_a_draining_worker_keeps_a_session_that_has_nowhere_to_go(start_local) -> None:
    engine = await start_local(**{**TWO, "max_sessions": 2})
    await both_ready(engine)
    first = await engine.open(order("sess_1", pictures=None))
    second = await engine.open(order("sess_2", pictures=None))
    engine.drain("0")
    assert [event.index for event in await take(first, 3)] == [0, 1, 2]
    assert states(engine) == ["draining", "ready"] and held(engine) == [1, 1]
    await second.close()  # now there is room
    assert (await rest(first))[-1].code == "preempted"
    await until(engine, lambda: states(engine) == ["drained", "ready"])
    assert (await engine.undrain("0")).state is WorkerState.STARTING
    await both_ready(engine)


async def test_a_drain_that_is_taken_back_leaves_the_sessions_alone(start_local) -> None:
    engine = await start_local(**{**TWO, "max_sessions": 2})
    await both_ready(engine)
    lines = [await engine.open(order(f"sess_{number}", pictures=None)) for number in range(2)]
    engine.drain("1")
    assert (await engine.undrain("1")).state is WorkerState.READY
    await lines[0].close()
    assert [event.index for event in await take(lines[1], 2)] == [0, 1]
    assert held(engine) == [0, 1]


@pytest.mark.parametrize("keys", [(), ("a-key-of-a-caller-1",)])
async def test_only_the_operator_s_secret_drains(serve, keys) -> None:
    server = await serve(**TWO, api_keys=keys)
    await both_ready(server.engine)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as http:
        for given in (None, "wrong", *keys):
            headers = {} if given is None else {"authorization": f"Bearer {given}"}
            for method in ("POST", "DELETE"):
                reply = await http.request(method, "/v1/workers/0/drain", headers=headers)
                assert reply.status_code == 401 and "admin.token" in reply.json()["error"]["message"]
        assert states(server.engine) == ["ready", "ready"]
        secret = server.front.access.operator.read()
        unknown = await http.post("/v1/workers/cuda:9/drain", headers={"authorization": f"Bearer {secret}"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
        ambiguous = await http.post("/v1/workers/cpu/drain", headers={"authorization": f"Bearer {secret}"})
        assert "2 workers are on 'cpu'; name one by its number" in ambiguous.json()["error"]["message"]
        if keys:  # and it opens nothing else
            assert (await http.get("/v1/models", headers={"authorization": f"Bearer {secret}"})).status_code == 401
