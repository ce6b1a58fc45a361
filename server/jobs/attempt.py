"""One attempt at a job, from its claim until it is finished, released or lost.

A chunk is finished once its files are durable and recorded in the store; only then does the worker start the next. So
the job continues after its last finished chunk, here if a worker dies, on another server if this one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

import msgspec

from model.spec import ModelSpec
from server.config import Settings
from server.engine.interface import Engine, EngineSession
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Open, Past, Rejected
from server.jobs.chunks import ChunkState, chunks_of, names_of, pictures_in, read_past
from server.jobs.database import Database
from server.jobs.errors import LeaseLost, StoreUnavailable
from server.jobs.files import Files, FilesUnavailable
from server.jobs.job import DISK_FULL, AssemblyOrder, Job, Lease, Results
from server.jobs.lease_holder import RETRY_SECONDS, LeaseHolder
from server.live.resume_point import ResumePoint
from server.process import answer_of, module_command
from server.telemetry import logs
from server.telemetry.traces import SessionTrace, trace_id_of

log = logging.getLogger("pafu.jobs")

DISK_TRIES = 5
GIVEN_BACK = "given_back"
ASSEMBLE_COMMAND = module_command("server.jobs.assemble")


class JobFailed(Exception):
    """The job cannot succeed; ``code`` is the caller's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AttemptLost(Exception):
    """A worker or disk failed: the job is requeued, and the failure counts."""


class Attempt:
    """Runs one claimed job in ``task``."""

    def __init__(
        self, job: Job, lease: Lease, settings: Settings, spec: ModelSpec, engine: Engine, database: Database
    ) -> None:
        self.job, self.lease = job, lease
        self.engine_session: EngineSession | None = None
        self.finishing = False  # whether to stop after the current chunk
        self._settings, self._spec, self._engine, self._database = settings, spec, engine, database
        self._lease_holder = LeaseHolder(lease, database, settings.job_lease_seconds)
        self._outcome = GIVEN_BACK
        self._trace = self._begin_trace()
        self.task = asyncio.create_task(self._run(), name=job.id)

    def _begin_trace(self) -> SessionTrace | None:
        traces = self._engine.observer.traces
        ids = {"job_id": self.job.id, "request_id": self.job.order.request, "fence": str(self.lease.fence)}
        return None if traces is None else traces.attempt(ids, self.job.order.context, self._spec.name)

    def _silent_seconds(self) -> float:
        """Seconds since the worker's last message; 0 without a worker."""
        return 0.0 if self.engine_session is None else self.engine_session.silent_seconds

    def cancel(self) -> None:
        """Abandon the current chunk and release the job, if it still exists."""
        self.task.cancel()

    async def abandon(self) -> None:
        """The job was deleted: stop its worker before the model's next pass."""
        self.task.cancel()
        if self.engine_session is not None:
            await self.engine_session.close()

    async def finish_chunk(self) -> None:
        """Release the job after the current chunk."""
        self.finishing = True
        if self.engine_session is not None:
            await self.engine_session.finish()

    async def _run(self) -> None:
        with logs.about(**self.ids):
            try:
                await self._attempt()
            finally:
                if self._trace is not None:
                    self._trace.over(self._outcome, failed=self._outcome not in ("completed", GIVEN_BACK))

    @property
    def ids(self) -> dict[str, str]:
        """The ids in every log line about the job."""
        order = self.job.order
        ids = {"job_id": self.job.id, "request_id": order.request, "trace_id": trace_id_of(order.traceparent)}
        return {name: value for name, value in ids.items() if value}

    async def _attempt(self) -> None:
        heart = asyncio.create_task(
            self._lease_holder.beat(self._silent_seconds, self.cancel), name=f"{self.job.id}-heart"
        )
        try:
            await self._make()
        except LeaseLost as lost:
            log.info("%s", lost)
        except JobFailed as failed:
            await self._fail(failed.code, str(failed))
        except AttemptLost as lost:
            log.warning("%s: %s", self.job.id, lost)
            await asyncio.sleep(RETRY_SECONDS)
            await self._give_back(lost=str(lost))
        except asyncio.CancelledError:  # deleted or stopped; another server may continue
            await self._give_back()
        except StoreUnavailable as error:
            log.warning("%s: attempt failed, its lease will lapse: %s", self.job.id, error)
        except Exception:
            log.exception("%s failed", self.job.id)
            await self._give_back(lost="internal server error; see the server's log")
        finally:
            heart.cancel()
            if self.engine_session is not None:
                await self.engine_session.close()

    async def _make(self) -> None:
        count = chunks_of(self.job.order, self._spec)
        if self.job.chunks < count and not await self._make_chunks(count):
            return await self._give_back()
        results = await self._assemble()
        keep = self._settings.job_keep_seconds
        await self._lease_holder.ask(lambda store: store.finish(self.lease, results, keep))
        self._engine.observer.job_over("completed")
        self._outcome = "completed"
        log.info("%s: completed", self.job.id)

    # ---- chunks

    async def _make_chunks(self, count: int) -> bool:
        """Generate and store the missing chunks; False if the server stops before the last one."""
        resume_point = ResumePoint(self._spec, self.job.order.cache)
        past = await self._past()
        if past is not None:
            resume_point.resume(past)
        engine_session = await self._open(past, count)
        if engine_session is None:
            return False
        await self._lease_holder.ask(lambda store: store.admitted(self.lease))
        async for event in engine_session.events():
            if isinstance(event, Fragment):
                began = time.monotonic()
                await self._keep(event, resume_point)
                if self._trace is not None:
                    self._trace.sent(event, time.monotonic() - began, stage="keep")
                await engine_session.delivered(event.index)
            elif isinstance(event, Rejected):
                raise JobFailed("interaction_failed", event.message)
            elif isinstance(event, Ended):
                return self._ended(event)
        raise AttemptLost("the worker's events ended without Ended")

    def _ended(self, event: Ended) -> bool:
        if event.code is None or event.code == "preempted":  # a live viewer needed the place
            return event.reason == "complete"
        if event.code in ("worker_failed", "shutting_down"):
            raise AttemptLost(event.message)
        raise JobFailed(event.code, event.message)

    async def _past(self) -> Past | None:
        """The state from which a worker continues after the job's last finished chunk; None for a new job."""
        if not self.job.chunks:
            earlier = self.job.order.earlier
            return Past(next_index=0, pictures=earlier, camera=(0, 0, 0), chunks=[]) if earlier else None
        chunks = await self._database.run(lambda store: store.chunks(self.job.id))
        try:
            return await self._database.file(lambda files: read_past(files, self.job, chunks, self._spec))
        except FilesUnavailable as error:
            raise AttemptLost(str(error)) from error

    async def _open(self, past: Past | None, count: int) -> EngineSession | None:
        """Open a background session once there is room; None if the server stops or has no worker."""
        order = self.job.order
        session = Open(
            session=f"{self.lease.job_id}-{self.lease.fence}",
            prompt=order.prompt_at(self.job.chunks),
            seed=order.seed,
            lead_seconds=math.inf,
            cache=order.cache,
            pictures=order.earlier + pictures_in(count, self._spec),
            background=True,
            past=past,
            image=order.image,
            request=order.request,
            trace=trace_id_of(order.traceparent),
            changes=order.changes_from(self.job.chunks),
        )
        while not self.finishing:
            try:
                await self._engine.wait_ready(self._settings.job_lease_seconds)
            except PafuError:
                return None
            try:
                self.engine_session = await self._engine.open(session)
            except PafuError as error:
                if error.kind.code == "worker_failed":
                    raise AttemptLost(error.message) from None
                if not error.kind.retryable or error.kind.code == "generation_failed":
                    raise JobFailed(error.kind.code, error.message) from None
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return self.engine_session
        return None

    async def _keep(self, fragment: Fragment, resume_point: ResumePoint) -> None:
        """Store the chunk: first its files, then its record."""
        resume_point.add(fragment)
        state = ChunkState.after(fragment, resume_point)
        chunk = names_of(self.lease, fragment.index)

        def write(files: Files) -> None:
            files.write(chunk.media, fragment.data)
            files.write(chunk.past, msgspec.msgpack.encode(state))

        await self._on_disk(write)
        await self._lease_holder.ask(lambda store: store.add_chunk(self.lease, chunk, fragment.stats.chunk_seconds))

    async def _on_disk(self, write: Callable[[Files], None]) -> None:
        """Write with retries, since a full disk may be temporary. Raises JobFailed or AttemptLost."""
        for left in reversed(range(DISK_TRIES)):
            try:
                return await self._database.file(write)
            except FilesUnavailable as error:
                log.warning("%s", error)
                if not left and error.full:
                    raise JobFailed("storage_full", f"no space is left for the video: {error}") from error
                if not left:
                    raise AttemptLost(str(error)) from error
                await asyncio.sleep(RETRY_SECONDS)

    async def _assemble(self) -> Results:
        """Assemble the video from its chunks in a child process. Raises JobFailed or AttemptLost."""
        chunks = await self._database.run(lambda store: store.chunks(self.job.id))
        order = AssemblyOrder.of(self.job, self.lease, chunks, self._settings)
        for left in reversed(range(DISK_TRIES)):
            status, answer, errors = await answer_of(ASSEMBLE_COMMAND, msgspec.json.encode(order))
            if status == 0:
                return msgspec.json.decode(answer, type=Results)
            reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
            if status != DISK_FULL:
                raise AttemptLost(f"the video could not be assembled (exit status {status}): {reason}")
            if not left:
                raise JobFailed("storage_full", f"no space is left for the video: {reason}")
            await asyncio.sleep(RETRY_SECONDS)
        raise AssertionError("unreachable")

    # ---- the end

    async def _give_back(self, lost: str | None = None) -> None:
        """Return the job to the queue. With ``lost``, a failure reason, it fails after too many failures in a row."""
        try:
            job = await self._database.run(lambda store: store.get(self.lease.job_id))
            if lost is not None and job is not None and job.failures + 1 >= self._settings.job_max_failures:
                times = job.failures + 1
                return await self._fail("worker_failed", f"failed {times} times in a row; the last time: {lost}")
            await self._database.run(lambda store: store.release(self.lease, lost is not None))
        except (LeaseLost, StoreUnavailable) as error:
            log.info("%s", error)

    async def _fail(self, code: str, message: str) -> None:
        """Mark the job as failed and delete its chunks."""
        self._outcome = code
        name, keep = self.lease.job_id, self._settings.job_keep_seconds
        log.warning("%s: %s", name, message)
        with contextlib.suppress(LeaseLost):
            await self._lease_holder.ask(lambda store: store.fail(self.lease, code, message, keep))
            self._engine.observer.job_over("failed")
            with contextlib.suppress(FilesUnavailable):  # otherwise they are deleted with the job's row
                await self._database.file(lambda files: files.remove_folder(name))
