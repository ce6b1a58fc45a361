"""Promise: after any crash, full disk, hang or clock jump, a job continues after its last finished chunk and is done
once."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest

from server.engine.line import Line
from server.http.service import SAME_STOP
from server.jobs import attempt as attempt_module
from server.jobs import files as files_module
from server.jobs import runner as runner_module
from server.jobs import sweeper as sweeper_module
from server.jobs.connections import database_url
from server.jobs.database import Database
from server.jobs.job import Lease, StoredChunk
from server.jobs.lease_monitor import LeaseMonitor
from server.jobs.store import JobStore
from server.jobs.sweeper import Sweeper, too_many_bytes
from server.states import JobState

SLOW = {"prompt": "sleep", "num_frames": 70, "seed": 1}  # six chunks of 0.3 s


class Caller:
    """A client that creates a video and waits for it."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=120)

    async def order(self, **fields) -> str:
        reply = await self._http.post("/v1/videos", json=fields)
        assert reply.status_code == 200, reply.text
        return reply.json()["id"]

    async def look(self, video_id: str) -> dict:
        reply = await self._http.get(f"/v1/videos/{video_id}")
        return reply.json() if reply.status_code == 200 else {"status": reply.status_code, "progress": 0}

    async def until(self, video_id: str, holds, within: float = 120) -> dict:
        async with asyncio.timeout(within):
            while not holds(video := await self.look(video_id)):
                await asyncio.sleep(0.05)
        return video

    async def begun(self, video_id: str) -> dict:
        return await self.until(video_id, lambda video: video["progress"] > 0)

    async def over(self, video_id: str) -> dict:
        return await self.until(video_id, lambda video: video["status"] in ("completed", "failed"))

    async def close(self) -> None:
        await self._http.aclose()


@pytest.fixture
async def caller_of():
    callers = []

    def call(server) -> Caller:
        callers.append(Caller(server.url))
        return callers[-1]

    yield call
    for caller in callers:
        await caller.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(runner_module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(attempt_module, "RETRY_SECONDS", 0.1)


def made(data_dir: Path, video_id: str) -> list[tuple[int, int]]:
    """(chunk, claim) of every file: a chunk made twice appears twice."""
    names = [path.stem.split("-") for path in (data_dir / "videos" / video_id).glob("*.m4s")]
    return sorted((int(number), int(fence)) for number, fence in names)


async def test_a_chunk_counts_when_its_files_are_safe_and_only_then_the_next_may_begin(
    serve, caller_of, tmp_path, monkeypatch
) -> None:
    """Otherwise a crash in between would leave a chunk that the store lists but nobody has, or two made at once."""
    add_chunk, delivered = JobStore.add_chunk, Line.delivered
    safe, counted = [], []

    def add(store: JobStore, lease: Lease, chunk: StoredChunk, seconds: float) -> None:
        safe.append([(tmp_path / "videos" / name).is_file() for name in (chunk.media, chunk.past)])
        add_chunk(store, lease, chunk, seconds)

    async def may_begin(line: Line, index: int) -> None:
        counted.append((index, as_it_is(tmp_path, video_id).chunks))
        await delivered(line, index)

    monkeypatch.setattr(JobStore, "add_chunk", add)
    monkeypatch.setattr(Line, "delivered", may_begin)
    caller = caller_of(await serve(data_dir=tmp_path))
    video_id = await caller.order(prompt="a bar", num_frames=30)
    assert (await caller.over(video_id))["status"] == "completed"
    assert safe == [[True, True]] * 3
    assert counted == [(0, 1), (1, 2), (2, 3)]


async def test_a_film_keeps_nothing_of_holders_who_were_given_up(serve, caller_of, tmp_path) -> None:
    caller = caller_of(await serve(data_dir=tmp_path))
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    folder = tmp_path / "videos" / video_id
    lost = [folder / "000005-0.m4s", folder / "000005-0.past", folder / "0-video.mp4"]  # of which nobody told the store
    for each in lost:
        each.write_bytes(b"of another claim")
    assert (await caller.over(video_id))["status"] == "completed"
    assert made(tmp_path, video_id) == [(number, 1) for number in range(6)]
    assert not any(each.exists() for each in lost)


async def test_kill_9_of_the_worker_costs_the_chunk_in_hand_and_nothing_else(serve, caller_of, tmp_path) -> None:
    server = await serve(data_dir=tmp_path)
    caller = caller_of(server)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
    assert (await caller.over(video_id))["status"] == "completed"
    chunks = made(tmp_path, video_id)
    assert [number for number, _ in chunks] == list(range(6)), "a chunk was made twice, or never"
    assert {fence for _, fence in chunks} == {1, 2}
    assert not list(tmp_path.rglob("*.part"))


async def test_a_worker_that_hangs_is_replaced_and_the_job_goes_on(serve, caller_of, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, worker_timeout=3.0)
    caller = caller_of(server)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    os.kill(server.engine.status().workers[0].pid, signal.SIGSTOP)
    assert (await caller.over(video_id))["status"] == "completed"
    assert [number for number, _ in made(tmp_path, video_id)] == list(range(6))


async def test_another_front_takes_over_from_one_that_fell_silent_and_the_old_one_is_refused(
    serve, caller_of, tmp_path, monkeypatch
) -> None:
    """The first front's heartbeat and store calls stop, as if its network had failed."""
    silent = await serve(data_dir=tmp_path, job_lease_seconds=1.0)
    caller = caller_of(silent)
    video_id = await caller.order(**{**SLOW, "num_frames": 40})
    await caller.begun(video_id)
    runner = silent.front.jobs._runner
    (attempt,) = runner._attempts.values()
    resume = asyncio.Event()

    async def cut_off(query):
        await resume.wait()
        return await Database.run(runner._database, query)

    runner._loop.cancel()
    monkeypatch.setattr(runner._database, "run", cut_off)
    other = await serve(data_dir=tmp_path, job_lease_seconds=1.0)
    caller = caller_of(other)
    assert (await caller.over(video_id))["status"] == "completed"
    before = made(tmp_path, video_id)
    resume.set()
    await asyncio.wait([attempt.task], timeout=30)
    assert attempt.task.done() and runner._attempts == {}
    job = JobStore(database_url(None, tmp_path)).get(video_id)
    assert (job.state, job.fence) == (JobState.COMPLETED, attempt.lease.fence + 1)
    assert made(tmp_path, video_id) == before


async def test_sigterm_keeps_the_chunk_in_hand_and_gives_the_job_back_at_once(serve, caller_of, tmp_path) -> None:
    first = await serve(data_dir=tmp_path, job_lease_seconds=60.0)
    caller = caller_of(first)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    await first.stop()
    store = JobStore(database_url(None, tmp_path))
    job = store.get(video_id)
    store.close()
    assert (job.state, job.failures) == (JobState.QUEUED, 0) and 0 < job.chunks < 6
    second = await serve(data_dir=tmp_path, job_lease_seconds=60.0)  # no lease is waited for
    assert (await caller_of(second).over(video_id))["status"] == "completed"
    assert [number for number, _ in made(tmp_path, video_id)] == list(range(6))


async def in_hand(server, caller, video_id: str) -> None:
    """Wait until the worker is making a chunk of the endless video."""
    await caller.begun(video_id)
    (attempt,) = server.front.jobs._runner._attempts.values()
    async with asyncio.timeout(120):
        while attempt.engine_session is None or not server.engine.status().sessions:
            await asyncio.sleep(0.01)


def as_it_is(data_dir: Path, video_id: str):
    store = JobStore(database_url(None, data_dir))
    try:
        return store.get(video_id)
    finally:
        store.close()


async def test_a_chunk_that_does_not_end_in_time_is_left_and_the_job_given_back_at_once(
    serve, caller_of, tmp_path
) -> None:
    first = await serve(data_dir=tmp_path, job_lease_seconds=600.0, shutdown_timeout=0.5)
    caller = caller_of(first)
    video_id = await caller.order(**{**SLOW, "prompt": "hang"})
    await in_hand(first, caller, video_id)
    await first.stop()
    job = as_it_is(tmp_path, video_id)
    assert (job.state, job.failures, job.chunks) == (JobState.QUEUED, 0, 1)


async def test_after_a_second_signal_no_chunk_is_finished_and_the_next_server_continues_the_job(
    serve, caller_of, tmp_path
) -> None:
    first = await serve(data_dir=tmp_path, job_lease_seconds=600.0, shutdown_timeout=3600.0)
    caller = caller_of(first)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    os.kill(first.engine.status().workers[0].pid, signal.SIGSTOP)  # its chunk in hand never ends
    first.service.handle_exit(signal.SIGTERM, None)
    async with asyncio.timeout(120):
        while not first.front.draining:
            await asyncio.sleep(0.01)
    await asyncio.sleep(SAME_STOP)
    first.service.handle_exit(signal.SIGTERM, None)
    async with asyncio.timeout(120):  # of the hour that it had
        await first.stop()
    job = as_it_is(tmp_path, video_id)
    assert (job.state, job.failures) == (JobState.QUEUED, 0) and 0 < job.chunks < 6
    second = await serve(data_dir=tmp_path, job_lease_seconds=600.0)
    assert (await caller_of(second).over(video_id))["status"] == "completed"
    assert [number for number, _ in made(tmp_path, video_id)] == list(range(6)), "a chunk was made twice, or never"


async def test_a_job_that_is_claimed_while_the_server_stops_is_given_back_too(
    serve, caller_of, tmp_path, monkeypatch
) -> None:
    server = await serve(data_dir=tmp_path, job_lease_seconds=600.0)
    await server.engine.settled()
    claiming, claim = threading.Event(), JobStore.claim

    def slow_claim(store: JobStore, model: str):
        claimed = claim(store, model)
        if claimed:
            claiming.set()
            time.sleep(0.3)
        return claimed

    monkeypatch.setattr(JobStore, "claim", slow_claim)
    video_id = await caller_of(server).order(**SLOW)
    await asyncio.to_thread(claiming.wait, 120)
    await server.stop()
    assert as_it_is(tmp_path, video_id).state is JobState.QUEUED


async def test_a_job_deleted_in_the_moment_of_its_claim_does_not_block_the_next(
    serve, caller_of, tmp_path, monkeypatch
) -> None:
    server = await serve(data_dir=tmp_path)
    caller, runner = caller_of(server), server.front.jobs._runner
    begin = runner._begin

    def begin_and_cancel(job, lease) -> None:
        begin(job, lease)
        monkeypatch.undo()
        server.front.jobs._database._opened_store().delete(job.id)
        runner._attempts[job.id].task.cancel()  # before its first step

    monkeypatch.setattr(runner, "_begin", begin_and_cancel)
    await caller.until(await caller.order(prompt="a bar", num_frames=3), lambda video: video["status"] == 404)
    assert (await caller.over(await caller.order(prompt="a bar", num_frames=3)))["status"] == "completed"


async def test_a_disk_that_is_full_for_a_moment_costs_nothing(serve, caller_of, tmp_path, monkeypatch) -> None:
    server = await serve(data_dir=tmp_path)
    caller = caller_of(server)
    failures = iter([True, True, False, True])

    def sometimes_full(handle: int) -> None:
        if next(failures, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    real = os.fsync
    monkeypatch.setattr(files_module.os, "fsync", sometimes_full)
    video_id = await caller.order(prompt="a bar", num_frames=30)
    assert (await caller.over(video_id))["status"] == "completed"
    assert not list(tmp_path.rglob("*.part"))


async def test_a_disk_that_stays_full_fails_the_job_by_name_and_leaves_no_half_file(
    serve, caller_of, tmp_path, monkeypatch
) -> None:
    server = await serve(data_dir=tmp_path)
    caller = caller_of(server)

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "fsync", full)
        video = await caller.over(await caller.order(prompt="a bar", num_frames=30))
    assert (video["status"], video["error"]["code"]) == ("failed", "storage_full")
    assert "No space left" in video["error"]["message"] and made(tmp_path, video["id"]) == []
    assert not list(tmp_path.rglob("*.part"))
    await server.works()
    assert (await caller.over(await caller.order(prompt="a bar", num_frames=3)))["status"] == "completed"


async def test_a_database_that_is_locked_for_a_while_holds_the_job_up_and_no_more(serve, caller_of, tmp_path) -> None:
    server = await serve(data_dir=tmp_path)
    caller = caller_of(server)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    await asyncio.sleep(1.0)
    other.close()
    assert (await caller.over(video_id))["status"] == "completed"
    assert [number for number, _ in made(tmp_path, video_id)] == list(range(6))


async def test_a_database_that_vanishes_for_longer_than_the_lease_and_comes_back(serve, caller_of, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, job_lease_seconds=0.6)
    caller = caller_of(server)
    video_id = await caller.order(**SLOW)
    await caller.begun(video_id)
    (tmp_path / "jobs.sqlite").rename(tmp_path / "away")
    await caller.until(video_id, lambda video: video["status"] == 503)
    async with asyncio.timeout(120):
        while server.front.jobs._runner._attempts:  # a holder who cannot know whether the job is still its own stops
            await asyncio.sleep(0.05)
    (tmp_path / "away").rename(tmp_path / "jobs.sqlite")
    assert (await caller.over(video_id))["status"] == "completed"


async def test_a_job_that_kills_every_worker_is_given_up(serve, caller_of, tmp_path) -> None:
    """It hangs at its second chunk. A worker is killed only during that chunk, since a saved chunk resets the job's
    failure count."""
    server = await serve(data_dir=tmp_path, job_max_failures=2)
    caller, runner = caller_of(server), server.front.jobs._runner
    video_id = await caller.order(prompt="hang", num_frames=24)
    await caller.begun(video_id)
    for fence in (1, 2):
        async with asyncio.timeout(120):
            while not any(a.lease.fence == fence and a.engine_session is not None for a in runner._attempts.values()):
                await asyncio.sleep(0.01)
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
    video = await caller.over(video_id)
    assert (video["status"], video["error"]["code"]) == ("failed", "worker_failed")
    assert video["error"]["message"].startswith("failed 2 times") and "SIGKILL" in video["error"]["message"]


def test_a_holder_is_silent_only_by_the_watchers_own_steady_clock() -> None:
    """No wall clock is read: whatever jumps, a lease expires neither early nor late."""
    now = 1000.0
    monitor = LeaseMonitor(10.0, lambda: now)
    lease, other = Lease("a", 1), Lease("a", 2)
    assert monitor.lapsed({lease: 5}) == []
    now += 9.9
    assert monitor.lapsed({lease: 5}) == []
    now += 0.2
    assert monitor.lapsed({lease: 5}) == [(lease, 5)]
    assert monitor.lapsed({lease: 6}) == [], "it gave a sign"
    now += 20
    assert monitor.lapsed({other: 6}) == [], "another holder has the whole time again"
    assert monitor.lapsed({}) == []


class Clocks:
    """A wall clock that can be set, and a monotonic one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = 1e9, 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
async def kept(tmp_path, order, monkeypatch):
    """A sweeper over three finished videos of 100 bytes each, with test clocks."""
    from server.config import Settings
    from server.jobs.job import Results

    clocks = Clocks()
    settings = Settings(model="test-tiny", data_dir=tmp_path, job_keep_seconds=100.0)
    database = Database(settings)
    store = JobStore(database_url(None, tmp_path), wall_clock=lambda: clocks.wall)
    database._store = store
    for name in "abc":
        store.add(name, "me", order())
        _, lease = store.claim("test-tiny")
        database.files().write(f"{name}/video.mp4", b"x" * 100)
        results = Results(video=f"{name}/video.mp4", thumbnail="", spritesheet="", nbytes=100)
        store.finish(lease, results, settings.job_keep_seconds)
        clocks.pass_by(1)
    sweeper = Sweeper(settings, database, lambda: clocks.wall, lambda: clocks.steady)

    def left() -> str:
        return "".join(sorted(path.name for path in (tmp_path / "videos").iterdir()))

    yield clocks, sweeper, store, left
    store.close()
    await database.close()


async def test_results_go_when_they_are_too_old(kept) -> None:
    clocks, sweeper, store, left = kept
    clocks.pass_by(98)
    await sweeper.sweep()
    assert left() == "bc" and store.get("a") is None and store.get("b") is not None
    clocks.pass_by(0.5)
    await sweeper.sweep()
    assert "a" in store.deleted(), "holders may still write to it"
    clocks.pass_by(sweeper_module.REMEMBER_SECONDS + 1)
    await sweeper.sweep()
    clocks.pass_by(sweeper_module.REMEMBER_SECONDS + 1)
    await sweeper.sweep()
    assert left() == "" and store.deleted() == []


async def test_a_clock_that_jumps_forward_and_back_removes_nothing(kept) -> None:
    clocks, sweeper, _, left = kept
    clocks.wall += 10 * 365 * 86_400
    await sweeper.sweep()
    clocks.wall -= 10 * 365 * 86_400
    await sweeper.sweep()
    clocks.pass_by(10)
    await sweeper.sweep()
    assert left() == "abc"


def test_the_oldest_go_until_the_others_fit(kept) -> None:
    finished = kept[2].finished()
    assert [too_many_bytes(finished, most) for most in (300, 299, 100, 0)] == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


async def test_results_go_when_they_are_too_many(kept) -> None:
    _, sweeper, store, left = kept
    sweeper._settings = sweeper._settings.model_copy(update={"job_keep_bytes": 250})
    await sweeper.sweep()
    assert left() == "bc" and store.get("a") is None


async def test_unknown_folders_are_swept_after_a_while_and_not_before(kept, tmp_path) -> None:
    clocks, sweeper, _, left = kept
    for name, age in (("old", sweeper_module.ORPHAN_SECONDS + 60), ("new", 0)):
        folder = tmp_path / "videos" / name
        folder.mkdir()
        os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - age))
    await sweeper.sweep()
    assert left() == "abcnew"
