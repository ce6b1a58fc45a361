"""Promise: every engine (one worker, several, one on a group of devices, a cluster) fulfils the same contract."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from server.engine.supervisor import WORKER_COMMAND
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Camera, Ended, Fragment, Interact, Rejected
from server.live.resume_point import ResumePoint
from server.states import EngineState, WorkerState
from tests.server.engine.engines import CACHE, PATIENCE, order, rest, take

ENGINES = {
    "one worker": ("start_local", {"device": "cpu"}),
    "several": ("start_local", {"device": "cpu:2"}),
    "a group": ("start_local", {"device": "cpu+cpu", "command": WORKER_COMMAND}),  # with the real model, which it needs
    "Ray": ("start_ray", {"device": "cpu"}),  # a worker on each of two nodes
}


QUICKLY = ("one worker", "several")  # the others take seconds to start
EACH = [pytest.param(name, marks=[] if name in QUICKLY else pytest.mark.proof) for name in ENGINES]
# for promises in which a worker's model has no part
without_a_group = pytest.mark.parametrize(
    "start", [each for each in EACH if each.values != ("a group",)], indirect=True
)


@pytest.fixture(params=EACH)
def start(request):
    """Start the engine under test with these settings, ready."""
    how, usual = ENGINES[request.param]
    start_engine = request.getfixturevalue(how)

    async def begin(**settings):
        engine = await start_engine(**{**usual, **settings})
        await engine.wait_ready(PATIENCE)
        return engine

    return begin


async def all_ready(engine) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(worker.state is not WorkerState.READY for worker in engine.status().workers):
            await engine.room_changed(0.1)


async def standing(engine, what):
    """Open a session whose viewer stays at its first picture, so that only the first chunk is generated."""
    line = await engine.open(what)
    await line.playhead(0.0)
    return line


async def test_an_engine_that_is_ready_says_what_it_has(start) -> None:
    engine = await start()
    status = engine.status()
    assert (status.state, status.message, status.sessions, status.max_sessions) == (EngineState.READY, "", 0, 4)
    assert status.cache_held_bytes == 0 and status.cache_room_bytes >= engine.cache_bytes(CACHE) > 0
    assert status.workers and all(worker.device in ("cpu", "cpu+cpu") for worker in status.workers)


async def test_a_session_brings_all_its_chunks_in_order_and_leaves_nothing(start) -> None:
    engine = await start()
    line = await engine.open(order(pictures=30))
    assert line.mime.startswith("video/mp4") and line.init
    assert engine.status().sessions == 1 and engine.status().cache_held_bytes == engine.cache_bytes(CACHE)
    *chunks, ended = await rest(line)
    assert [(chunk.index, chunk.pictures) for chunk in chunks] == [(0, 12), (1, 12), (2, 6)]
    assert chunks[0].data.startswith(line.init)
    assert isinstance(ended, Ended) and (ended.reason, ended.code, ended.chunks) == ("complete", None, 3)
    assert engine.status().sessions == 0 and engine.status().cache_held_bytes == 0
    await line.close()  # harmless
    await line.interact(Interact(session=line.id, event_id="late", prompt="x", camera=None, chunks=1))


async def test_a_change_counts_from_the_next_chunk(start) -> None:
    engine = await start()
    line = await standing(engine, order(lead_seconds=0.1))
    (first,) = await take(line, 1)
    await line.interact(Interact(session=line.id, event_id="yes", prompt="b", camera=Camera(speed=4), chunks=1))
    second = next(event for event in await rest(line) if isinstance(event, Fragment))
    assert (first.stats.prompt, second.stats.prompt, second.started) == ("a bar", "b", ["yes"])
    assert second.stats.camera.speed == 4


@without_a_group
async def test_a_change_that_the_model_refuses_changes_nothing(start) -> None:
    """The test pattern refuses this one; a group's real model would refuse none."""
    engine = await start()
    line = await standing(engine, order(lead_seconds=0.1))
    (first,) = await take(line, 1)
    await line.interact(Interact(session=line.id, event_id="no", prompt="refuse", camera=None, chunks=1))
    events = await rest(line)
    (refused,) = [event for event in events if isinstance(event, Rejected)]
    second = next(event for event in events if isinstance(event, Fragment))
    assert refused.event_id == "no"
    assert (first.stats.prompt, second.stats.prompt, second.started) == ("a bar", "a bar", [])


@without_a_group
async def test_pictures_come_as_jpeg_too_for_who_wants_them(start) -> None:
    engine = await start()
    line = await standing(engine, order(lead_seconds=0.1, jpeg=True))
    (first,) = await take(line, 1)
    await line.jpeg(False)
    second = next(event for event in await rest(line) if isinstance(event, Fragment))
    assert len(first.jpegs) == 12 and second.jpegs == []


@without_a_group
async def test_finish_ends_behind_the_chunk_in_hand(start) -> None:
    engine = await start()
    line = await engine.open(order(pictures=None, prompt="sleep"))
    await take(line, 1)
    await line.finish()
    *chunks, ended = await rest(line)
    assert (ended.reason, ended.code) == ("stopped", None) and len(chunks) <= 1


@without_a_group
async def test_a_closed_session_frees_its_place_and_wakes_a_waiting_one(start) -> None:
    engine = await start(max_sessions=1)
    line = await engine.open(order(pictures=None))
    waiting = asyncio.create_task(engine.room_changed(PATIENCE))
    await asyncio.sleep(0)
    await line.close()
    await asyncio.wait_for(waiting, PATIENCE / 2)
    assert engine.status().sessions == 0
    await (await engine.open(order("sess_2"))).close()


@without_a_group
async def test_any_number_of_workers_opens_no_more_sessions_than_there_are_places(start) -> None:
    engine = await start(max_sessions=3)
    await all_ready(engine)
    lines = [await engine.open(order(f"sess_{number}", pictures=None)) for number in range(3)]
    with pytest.raises(PafuError, match="all 3 places are taken") as full:
        await engine.open(order("sess_9"))
    assert full.value.kind.code == "session_rejected" and full.value.retry_after
    for line in lines:
        await line.close()


@without_a_group
async def test_a_cache_that_never_fits_is_refused_for_good(start) -> None:
    engine = await start(cache_room_bytes=2 * 2**20)
    huge = CacheChoice(policy="window", budget_latents=10_000, sink_latents=0, recent_latents=3)
    with pytest.raises(PafuError, match="smaller budget") as refused:
        await engine.open(order(cache=huge))
    assert refused.value.kind.code == "cache_too_large"
    assert engine.status().sessions == 0 and engine.status().cache_held_bytes == 0


async def test_what_the_worker_refuses_is_refused_and_holds_no_place(start, tmp_path) -> None:
    engine = await start()
    (tmp_path / "wrong").write_bytes(b"no snapshot")
    with pytest.raises(PafuError):
        await engine.open(order(snapshot=str(tmp_path / "wrong")))
    assert engine.status().sessions == 0 and engine.status().cache_held_bytes == 0


async def test_a_live_session_takes_the_place_of_a_background_one_which_continues_later(
    start,
) -> None:
    engine = await start(max_sessions=1)
    spec = engine.observer.spec
    job = order("job_1", background=True, pictures=72)
    line = await engine.open(job)
    memory = ResumePoint(spec, job.cache)
    for chunk in await take(line, 2):
        memory.add(chunk)
    viewer = await engine.open(order("sess_1", pictures=24, lead_seconds=0.1))  # waits to be played
    *more, ended = await rest(line)
    for chunk in more:
        memory.add(chunk)
    assert (ended.reason, ended.code) == ("failed", "preempted")
    with pytest.raises(PafuError) as full:
        await engine.open(order("job_2", background=True))
    assert full.value.kind.code == "session_rejected"
    await rest(viewer)
    again = await engine.open(order("job_1", background=True, pictures=72, past=memory.past()))
    chunks = [event for event in await rest(again) if isinstance(event, Fragment)]
    assert [chunk.index for chunk in chunks] == list(range(memory.next_index, 6))


async def test_a_dead_worker_s_session_is_notified_and_continues_after_its_last_chunk(start) -> None:
    engine = await start()
    await all_ready(engine)
    line = await standing(engine, order(pictures=72, lead_seconds=0.1))
    memory = ResumePoint(engine.observer.spec, CACHE)
    memory.add((await take(line, 1))[0])
    (holder,) = [worker for worker in engine.status().workers if worker.sessions]
    os.kill(holder.pid, signal.SIGKILL)
    ended = (await rest(line))[-1]
    assert ended.code == "worker_failed" and "SIGKILL" in ended.message
    assert engine.status().sessions == 0 and engine.status().cache_held_bytes == 0
    await engine.wait_ready(PATIENCE)
    again = await engine.open(order(pictures=72, past=memory.past()))
    assert [chunk.index for chunk in await take(again, 5)] == [1, 2, 3, 4, 5]
    await all_ready(engine)
    assert sum(worker.restarts for worker in engine.status().workers) == 1


async def test_a_parked_session_leaves_its_state_and_goes_on_exactly(start, tmp_path) -> None:
    engine = await start()
    whole = [event.data for event in await rest(await engine.open(order())) if isinstance(event, Fragment)]
    line = await engine.open(order(lead_seconds=0.1))
    memory = ResumePoint(engine.observer.spec, CACHE)
    (first,) = await take(line, 1)
    memory.add(first)
    await line.park(tmp_path / "state")
    ended = (await rest(line))[-1]
    assert (ended.reason, ended.code) == ("parked", None) and engine.status().sessions == 0
    again = await engine.open(order(past=memory.past(), snapshot=str(tmp_path / "state")))
    later = [event for event in await rest(again) if isinstance(event, Fragment)]
    assert [chunk.index for chunk in later] == [1, 2] and first.data == whole[0]


@without_a_group
async def test_draining_an_unknown_worker_or_the_last_one_is_refused(start) -> None:
    engine = await start()
    with pytest.raises(PafuError, match="no worker '7'") as unknown:
        engine.drain("7")
    assert unknown.value.kind.code == "not_found"
    for worker in engine.status().workers[1:]:
        engine.drain(worker.worker)
    with pytest.raises(PafuError, match="the only one serving") as last:
        engine.drain(engine.status().workers[0].worker)
    assert last.value.kind.code == "last_worker"


async def test_an_engine_that_stops_tells_its_sessions_and_takes_no_more(start) -> None:
    engine = await start()
    line = await engine.open(order(pictures=None))
    await take(line, 1)
    await engine.stop(0.0)
    assert (await rest(line))[-1].code == "shutting_down"
    with pytest.raises(PafuError) as over:
        await engine.open(order("sess_2"))
    assert over.value.kind.code == "shutting_down"
    assert engine.status().state is EngineState.STOPPED
    assert all(worker.pid is None for worker in engine.status().workers)
    await engine.stop(0.0)
