"""Works on jobs: claims them, has their chunks made in the background, keeps every chunk, finishes the film.

A chunk counts only when its files are safe and the store knows them; only then the worker may begin the next. So
whatever dies, the job goes on behind its last finished chunk: here after a worker's death, in any front after ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from model.camera import CameraState, camera_from_prompt
from model.spec import ModelSpec
from server.config import Settings
from server.engine.interface import Engine, EngineSession
from server.errors import PafuError
from server.ipc.messages import CameraPlace, Ended, Fragment, Open, Past, PastChunk
from server.jobs.database import Database
from server.jobs.errors import LeaseLost, StoreUnavailable
from server.jobs.files import Files, FilesUnavailable
from server.jobs.job import FULL, Chunk, FilmOrder, Job, Lease, Order, Results
from server.live.resume_point import ResumePoint
from server.process import module_command
from server.states import EngineState

log = logging.getLogger("pafu.jobs")

T = TypeVar("T")
POLL_SECONDS = 1.0  # how often other fronts' doings are looked at
RETRY_SECONDS = 0.5
CLAIM_WITHIN = 1.0
DISK_TRIES = 5
FILM_COMMAND = module_command("server.jobs.film")


class JobFailed(Exception):
    """The job cannot be done, now or later; ``code`` is told to its caller."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TryAgain(Exception):
    """What the job needed was lost (a worker, a disk): it goes back to the queue, and that counts against it."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file beside each chunk: the chunk's latents, and where the stream stood behind it."""

    past: PastChunk
    pictures: int
    camera: CameraPlace
    remembered: list[int]


@dataclass
class Working:
    """A job in hand."""

    job: Job
    lease: Lease
    task: asyncio.Task[None] | None = None
    line: EngineSession | None = None
    stopping: bool = False
    safe_at: float = field(default_factory=time.monotonic)  # when the store last confirmed the lease


def chunks_of(order: Order, spec: ModelSpec) -> int:
    """Whole chunks that hold the order's pictures."""
    count, pictures = 0, 0
    while pictures < order.pictures:
        pictures += spec.pictures_in_chunk(count)
        count += 1
    return count


def pictures_in(chunks: int, spec: ModelSpec) -> int:
    return sum(spec.pictures_in_chunk(index) for index in range(chunks))


class Silence:
    """Who has not given a sign of life for a whole lease, by our own monotonic clock: no other clock is asked."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[Lease, tuple[int, float]] = {}

    def of(self, held: dict[Lease, int]) -> list[tuple[Lease, int]]:
        """Leases, with their beats, that stand still for too long."""
        now = self._clock()
        before, self._seen = self._seen, {}
        for lease, beat in held.items():
            last, since = before.get(lease, (beat, now))
            self._seen[lease] = (beat, since if last == beat else now)
        patience = self._lease_seconds
        return [(lease, beat) for lease, (beat, since) in self._seen.items() if now - since >= patience]


class Runner:
    """The jobs that this front works on."""

    def __init__(self, settings: Settings, spec: ModelSpec, engine: Engine, database: Database) -> None:
        self._settings = settings
        self._spec = spec
        self._engine = engine
        self._database = database
        self._working: dict[str, Working] = {}
        self._silence = Silence(settings.job_lease_seconds)
        self._wake = asyncio.Event()
        self._finished = asyncio.Condition()
        self._loop: asyncio.Task[None] | None = None
        self._draining = False

    # ---- what the front asks

    def start(self) -> None:
        self._loop = asyncio.create_task(self._claim_for_ever(), name="jobs")

    def wake(self) -> None:
        """A job was queued."""
        self._wake.set()

    async def cancel(self, job_id: str) -> None:
        """The job was deleted: its worker stops before the next pass of the model."""
        if (working := self._working.get(job_id)) and working.task is not None:
            working.task.cancel()
            if working.line is not None:
                await working.line.close()

    async def changed(self, within: float) -> None:
        """Return when some job of ours is over, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within), self._finished:
                await self._finished.wait()

    async def drain(self, within: float) -> None:
        """Claim nothing more; let the chunks in hand be finished and kept; give all jobs back. Bounded in time."""
        await self._claim_no_more()
        for working in list(self._working.values()):
            working.stopping = True
            if working.line is not None:
                await working.line.finish()
        await self._settle(within)
        await self.give_back(within / 2)

    async def give_back(self, within: float) -> None:
        """Leave the chunks in hand; any other front may take the jobs at once."""
        await self._claim_no_more()
        await asyncio.sleep(0)  # a task that has not begun could not give its job back
        for working in list(self._working.values()):
            if working.task is not None:
                working.task.cancel()
        await self._settle(within)

    async def _claim_no_more(self) -> None:
        """A claim that is under way is heard out: a lease that nobody knows of could not be given back."""
        self._draining = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait((self._loop,), timeout=CLAIM_WITHIN)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _settle(self, within: float) -> None:
        if tasks := [working.task for working in self._working.values() if working.task is not None]:
            await asyncio.wait(tasks, timeout=within)

    # ---- claiming

    async def _claim_for_ever(self) -> None:
        while not self._draining:
            self._wake.clear()
            try:
                while self._has_room() and (claimed := await self._claim()):
                    self._begin(*claimed)
            except StoreUnavailable as error:
                log.warning("no job can be claimed: %s", error)
            except Exception:
                log.exception("claiming failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    def _has_room(self) -> bool:
        """Without a worker a front has no use for jobs; another may have one."""
        ready = self._engine.status().state is EngineState.READY
        return ready and not self._draining and len(self._working) < self._settings.jobs_at_once

    async def _claim(self) -> tuple[Job, Lease] | None:
        """A job whose holder is silent, or else the one that waits longest."""
        name = self._spec.name
        held = await self._database.run(lambda store: store.held(name))
        for lease, beat in self._silence.of(held):
            mine = self._working.get(lease.job_id)
            if mine is not None and mine.lease == lease:
                continue
            if taken := await self._take_over(lease, beat):
                log.warning("%s: its holder fell silent; going on at chunk %d", lease.job_id, taken[0].chunks)
                return taken
        return await self._database.run(lambda store: store.claim(name))

    async def _take_over(self, lease: Lease, beat: int) -> tuple[Job, Lease] | None:
        return await self._database.run(lambda store: store.take_over(lease, beat))

    def _begin(self, job: Job, lease: Lease) -> None:
        working = Working(job, lease)
        self._working[job.id] = working
        working.task = asyncio.create_task(self._work(working), name=job.id)
        # a callback, because a task that is cancelled before its first step runs none of its own code
        working.task.add_done_callback(lambda _: self._forget(working))

    def _forget(self, working: Working) -> None:
        """The job is out of our hands; the next may be claimed."""
        del self._working[working.lease.job_id]
        self._wake.set()
        assert working.task is not None
        if not working.task.cancelled() and (error := working.task.exception()):
            log.warning("%s: left alone, its lease will lapse: %s", working.lease.job_id, error)

    # ---- one job

    async def _work(self, working: Working) -> None:
        """The job until it is over or given back."""
        job = working.job
        heart = asyncio.create_task(self._beat(working), name=f"{job.id}-heart")
        try:
            await self._attempt(working)
        except LeaseLost as lost:
            log.info("%s", lost)
        except JobFailed as failed:
            await self._fail(working, failed.code, str(failed))
        except TryAgain as lost:
            log.warning("%s: %s", job.id, lost)
            await asyncio.sleep(RETRY_SECONDS)
            await self._give_back(working, failed=True, why=str(lost))
        except asyncio.CancelledError:  # deleted, or told to stop: another front may go on
            await self._give_back(working, failed=False, why="")
        except StoreUnavailable as error:
            log.warning("%s: left alone, its lease will lapse: %s", job.id, error)
        except Exception:
            log.exception("%s failed", job.id)
            await self._give_back(working, failed=True, why="the server made a mistake; it is in its log")
        finally:
            heart.cancel()
            if working.line is not None:
                await working.line.close()
            async with self._finished:
                self._finished.notify_all()

    async def _attempt(self, working: Working) -> None:
        job = working.job
        count = chunks_of(job.order, self._spec)
        if job.chunks < count:
            if not await self._make_chunks(working, count):
                return await self._give_back(working, failed=False, why="")
        results = await self._film(working)
        keep = self._settings.job_keep_seconds
        await self._insist(working, lambda: self._database.run(lambda s: s.finish(working.lease, results, keep)))
        self._engine.observer.job_over("completed")
        log.info("%s: completed", job.id)

    async def _make_chunks(self, working: Working, count: int) -> bool:
        """Have the missing chunks made; False when the server stops before the last."""
        memory = ResumePoint(self._spec, working.job.order.cache)
        past = await self._past(working.job)
        if past is not None:
            memory.resume(past)
        line = await self._open(working, past, count)
        if line is None:
            return False
        await self._insist(working, lambda: self._database.run(lambda s: s.admitted(working.lease)))
        async for event in line.events():
            if isinstance(event, Fragment):
                await self._keep(working, event, memory)
                await line.delivered(event.index)
            elif isinstance(event, Ended):
                return self._ended(event)
        raise TryAgain("the worker's events ended without a word")

    def _ended(self, event: Ended) -> bool:
        if event.code is None or event.code == "preempted":  # a live viewer needed the place
            return event.reason == "complete"
        if event.code in ("worker_failed", "shutting_down"):
            raise TryAgain(event.message)
        raise JobFailed(event.code, event.message)

    async def _open(self, working: Working, past: Past | None, count: int) -> EngineSession | None:
        """A background session on a worker, as soon as there is room; None when the server stops or has no worker."""
        order = working.job.order
        session = Open(
            session=f"{working.lease.job_id}-{working.lease.fence}",
            prompt=order.prompt,
            seed=order.seed,
            lead_seconds=math.inf,
            cache=order.cache,
            pictures=pictures_in(count, self._spec),
            background=True,
            past=past,
        )
        while not (self._draining or working.stopping):
            try:
                await self._engine.wait_ready(self._settings.job_lease_seconds)
            except PafuError:
                return None
            try:
                working.line = await self._engine.open(session)
            except PafuError as error:
                if error.kind.code == "worker_failed":
                    raise TryAgain(error.message) from None
                if not error.kind.retryable or error.kind.code == "generation_failed":
                    raise JobFailed(error.kind.code, error.message) from None
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return working.line
        return None

    async def _past(self, job: Job) -> Past | None:
        """What a worker needs to go on behind the job's last finished chunk."""
        if not job.chunks:
            return None
        chunks = await self._database.run(lambda store: store.chunks(job.id))
        try:
            return await self._database.file(lambda files: self._read_past(files, job, chunks))
        except FilesUnavailable as error:
            raise TryAgain(str(error)) from error

    def _read_past(self, files: Files, job: Job, chunks: list[Chunk]) -> Past:
        def read(number: int) -> Kept:
            return msgspec.msgpack.decode(files.read(chunks[number].past), type=Kept)

        last = read(len(chunks) - 1)
        camera = last.camera
        if job.chunks == job.order.given_chunks and self._spec.camera:  # an extension's own words begin here
            if control := camera_from_prompt(job.order.prompt):
                state = CameraState(*camera).steered(control, self._spec.width)
                camera = (state.offset, state.speed, state.target)
        remembered = [read(number).past for number in last.remembered]
        return Past(next_index=len(chunks), pictures=last.pictures, camera=camera, chunks=remembered)

    async def _keep(self, working: Working, fragment: Fragment, memory: ResumePoint) -> None:
        """Make the chunk safe: its files first, then the store's word for it."""
        memory.add(fragment)
        past = memory.past()
        assert past is not None
        kept = Kept(
            past=fragment.past,
            pictures=past.pictures,
            camera=past.camera,
            remembered=[chunk.index for chunk in past.chunks],
        )
        name = f"{working.lease.job_id}/{fragment.index:06d}-{working.lease.fence}"
        chunk = Chunk(number=fragment.index, media=f"{name}.m4s", past=f"{name}.past")

        def write(files: Files) -> None:
            files.write(chunk.media, fragment.data)
            files.write(chunk.past, msgspec.msgpack.encode(kept))

        await self._on_disk(write)
        seconds = fragment.stats.chunk_seconds
        await self._insist(working, lambda: self._database.run(lambda s: s.add_chunk(working.lease, chunk, seconds)))

    async def _film(self, working: Working) -> Results:
        """The finished film, made by a process of its own."""
        job = working.job
        chunks = await self._database.run(lambda store: store.chunks(job.id))
        settings = self._settings
        order = FilmOrder(
            files=settings.videos,
            data_dir=str(settings.data_dir.resolve()),
            media=[chunk.media for chunk in chunks],
            past=[chunk.past for chunk in chunks],
            pictures=job.order.pictures,
            fps=job.order.fps,
            title=job.id,
            prefix=f"{job.id}/{working.lease.fence}-",
        )
        for left in reversed(range(DISK_TRIES)):
            status, answer, errors = await run_film(order)
            if status == 0:
                return msgspec.json.decode(answer, type=Results)
            reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
            if status != FULL:
                raise TryAgain(f"the film could not be made (exit status {status}): {reason}")
            if not left:
                raise JobFailed("storage_full", f"no space is left for the video: {reason}")
            await asyncio.sleep(RETRY_SECONDS)
        raise AssertionError("unreachable")

    # ---- keeping at it

    async def _on_disk(self, write: Callable[[Files], None]) -> None:
        """Write, and write again: a disk may be full only for a moment."""
        for left in reversed(range(DISK_TRIES)):
            try:
                return await self._database.file(write)
            except FilesUnavailable as error:
                log.warning("%s", error)
                if not left and error.full:
                    raise JobFailed("storage_full", f"no space is left for the video: {error}") from error
                if not left:
                    raise TryAgain(str(error)) from error
                await asyncio.sleep(RETRY_SECONDS)

    async def _insist(self, working: Working, query: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers, but no longer than the lease is certainly ours."""
        while True:
            try:
                answer = await query()
            except StoreUnavailable as error:
                if time.monotonic() - working.safe_at > self._settings.job_lease_seconds:
                    raise
                log.warning("%s: %s", working.lease.job_id, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                working.safe_at = time.monotonic()
                return answer

    async def _beat(self, working: Working) -> None:
        """Tell the store that the job is being worked on, as long as the worker's step loop gives signs of life."""
        seconds = self._settings.job_lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            if working.line is not None and self._engine.status().silent_seconds > seconds:
                continue
            try:
                await self._database.run(lambda store: store.beat(working.lease))
                working.safe_at = time.monotonic()
            except StoreUnavailable as error:
                log.warning("%s: no heartbeat: %s", working.lease.job_id, error)
            except LeaseLost:
                log.info("%s was deleted or is worked on elsewhere", working.lease.job_id)
                if working.task is not None:
                    working.task.cancel()
                return

    async def _give_back(self, working: Working, failed: bool, why: str) -> None:
        """Back to the queue; a job that was lost too often without a new chunk is over."""
        lease = working.lease
        try:
            job = await self._database.run(lambda store: store.get(lease.job_id))
            if failed and job is not None and job.failures + 1 >= self._settings.job_max_failures:
                return await self._fail(
                    working, "worker_failed", f"tried {job.failures + 1} times; the last time: {why}"
                )
            await self._database.run(lambda store: store.release(lease, failed))
        except (LeaseLost, StoreUnavailable) as error:
            log.info("%s", error)

    async def _fail(self, working: Working, code: str, message: str) -> None:
        """The job is over without a film; the chunks that it has are of no use to anybody."""
        name = working.lease.job_id
        log.warning("%s: %s", name, message)
        keep = self._settings.job_keep_seconds
        with contextlib.suppress(LeaseLost):
            await self._insist(
                working, lambda: self._database.run(lambda store: store.fail(working.lease, code, message, keep))
            )
            self._engine.observer.job_over("failed")
            with contextlib.suppress(FilesUnavailable):  # then they go with the job's row
                await self._database.file(lambda files: files.remove_folder(name))


async def run_film(order: FilmOrder) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and error of a film process; it dies with whoever waits for it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *FILM_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        answer, errors = await process.communicate(msgspec.json.encode(order))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, answer, errors
