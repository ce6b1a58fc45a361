"""The service behind the video routes: create, look up, download, delete. Owns the runner and the sweeper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from model.spec import ModelSpec
from server.access.limits import Caller, Limits
from server.config import Settings
from server.engine.interface import Engine
from server.errors import RETRY_AFTER, PafuError
from server.jobs import request
from server.jobs.database import Database
from server.jobs.errors import IdempotencyConflict
from server.jobs.files import FilesUnavailable
from server.jobs.job import Job, Order, Results, StoredChunk
from server.jobs.runner import Runner
from server.jobs.source_files import SourceFiles
from server.jobs.storage import Storage
from server.jobs.sweeper import Sweeper
from server.media import picture
from server.states import JobState
from server.telemetry import logs
from server.telemetry.traces import CONTEXT

if TYPE_CHECKING:
    pass

T = TypeVar("T")
Bring = Callable[[str], Awaitable[tuple[Order, list[StoredChunk]]]]  # job id -> the order and the chunks it starts with
FIGURES_WITHIN = 2.0  # seconds
FULL_BELOW = 2**20  # free bytes below which the disk counts as full
WATCH_SECONDS = 1.0  # poll interval for a caller who waits for a job on another server
NUL = "\0"  # never part of an id; PostgreSQL rejects it in text
NO_CONTEXT = dict.fromkeys(CONTEXT, "")  # not that of the video which is extended
VARIANTS = ("video", "thumbnail", "spritesheet", "loop")

log = logging.getLogger("pafu.jobs")


@dataclass(frozen=True)
class Sender:
    """Who sent a request: the caller, the idempotency ``key``, the request id and the W3C trace context."""

    caller: Caller
    key: str | None
    request: str
    context: dict[str, str]


class VideoService:
    """Video jobs for the routes. Methods raise PafuError; another caller's jobs count as not found."""

    def __init__(self, settings: Settings, spec: ModelSpec, engine: Engine, limits: Limits) -> None:
        self._settings = settings
        self._spec = spec
        self._limits = limits
        self._database = Database(settings)
        self._storage = Storage(self._database)
        self._sources = SourceFiles(settings, self._storage)
        self._engine = engine
        self._runner = Runner(settings, spec, engine, self._database)
        self._sweeper = Sweeper(settings, self._database)
        self._draining = False
        self._observer = engine.observer
        self._observer.sources.append(self._report_gauges)

    async def _report_gauges(self) -> None:
        """Report queued and running jobs to Prometheus; unknown if the store does not answer in time."""
        with contextlib.suppress(OSError):
            self._observer.data_free(self._room_left())
        try:
            async with asyncio.timeout(FIGURES_WITHIN):
                counts = await self._database.run(lambda store: store.counts())
                since = await self._database.run(lambda store: store.waiting_since())
        except (RuntimeError, TimeoutError):  # StoreUnavailable, or closed already
            return self._observer.jobs_unknown()
        unfinished = {state.value: counts[state] for state in (JobState.QUEUED, JobState.RUNNING)}
        age = 0.0 if since is None else max(0.0, time.time() - since)
        self._observer.jobs(unfinished, age, writable=not self._database.trouble)

    def _room_left(self) -> int:
        return shutil.disk_usage(self._settings.data_dir).free

    @property
    def trouble(self) -> str:
        """Why the job store is unavailable; empty if it is available."""
        return self._database.trouble

    async def unfinished(self) -> int:
        """Number of unfinished jobs of all servers on this store; 0 if the store does not answer in time."""
        try:
            async with asyncio.timeout(FIGURES_WITHIN):
                counts = await self._database.run(lambda store: store.counts())
        except (RuntimeError, TimeoutError):
            return 0
        return counts[JobState.QUEUED] + counts[JobState.RUNNING]

    def start(self) -> None:
        self._runner.start()
        self._sweeper.start()

    async def drain(self, within: float) -> None:
        """Refuse new jobs, store the running jobs' chunks and return them to the queue."""
        self._draining = True
        await self._sweeper.stop()
        await self._runner.drain(within)

    async def give_back(self, within: float) -> None:
        """The quick part of ``drain``: release our leases, so that other servers need not wait for them to lapse."""
        await self._runner.give_back(within)

    async def close(self) -> None:
        await self._database.close()

    # ---- new jobs

    async def create(self, fields: dict[str, Any], sender: Sender) -> Job:
        """Create a job from a request's fields; a repeated idempotency key returns the existing job."""
        asked = request.parse(request.VideoRequest, fields)
        pictured = asked.input_reference is not None or asked.image_reference is not None
        make = picture.one_at_a_time if pictured else asyncio.to_thread
        order = await make(request.new_order, asked, self._spec, self._settings)
        return await self._queue(order, sender, ("create", fields))

    async def remix(self, source_id: str, fields: dict[str, Any], sender: Sender) -> Job:
        """Create a job that repeats the source with another prompt."""
        asked = request.parse(request.RemixRequest, fields)
        source = await self.get(source_id, sender.caller)
        self._check_model(source)
        order = request.remixed_order(source.order, asked, self._spec)
        adopting = partial(self._sources.adopt, source, order, [])
        return await self._queue(order, sender, (f"remix {source_id}", fields), adopting, remixed_from=source_id)

    async def extend(self, fields: dict[str, Any], sender: Sender) -> Job:
        """Create a job that extends the source, from its last latents or, if those are incompatible, its last
        picture."""
        asked = request.parse(request.ExtendRequest, fields)
        source = await self._completed(asked.video.id, sender.caller)
        if why := request.unlike(source.order, self._spec):
            order = request.carrying_order(source.order, asked, why, self._spec, self._settings)
            return await self._queue(order, sender, ("extend", fields), partial(self._sources.carry, source, order))
        chunks = await self._storage.ask(lambda store: store.chunks(source.id))
        order = request.longer_order(source.order, asked, len(chunks), self._spec, self._settings)
        return await self._queue(order, sender, ("extend", fields), partial(self._sources.adopt, source, order, chunks))

    def _check_model(self, source: Job) -> None:
        """Refuse a source made by another model; other servers on this store may use other models."""
        if source.order.model != self._spec.name:
            reason = f"{source.id} was made by {source.order.model!r}, but this server has {self._spec.name!r}"
            raise PafuError("unsupported", reason, "video_id")

    async def _queue(
        self,
        order: Order,
        sender: Sender,
        asked: tuple[str, dict[str, Any]],
        bring: Bring | None = None,
        remixed_from: str | None = None,
    ) -> Job:
        """``bring`` copies another job's files into the new job's folder."""
        if self._draining:
            raise PafuError("shutting_down", "the server is shutting down; try another or try again later")
        job_id, caller, key = f"video_{secrets.token_hex(12)}", sender.caller, sender.key
        await self._check_accepted(order, caller, key)
        order, chunks = await bring(job_id) if bring else (order, [])
        context = NO_CONTEXT | self._traced(job_id, sender)
        order = msgspec.structs.replace(order, request=sender.request, **context)
        idempotency = None if key is None else (key, await asyncio.to_thread(request.digest, *asked))
        new = False
        try:
            async with self._storage.ordering():  # otherwise concurrent requests would all see the last free place
                await self._check_accepted(order, caller, key)
                job, new = await self._storage.ask(
                    lambda store: store.add(
                        job_id, caller.name, order, remixed_from=remixed_from, given=chunks, idempotency=idempotency
                    )
                )
        except IdempotencyConflict as conflict:
            raise PafuError("idempotency_conflict", str(conflict), "Idempotency-Key") from None
        finally:
            if not new and bring:
                await self._remove_files(job_id)
        if new:
            with logs.about(job_id=job.id):
                logs.prompt(log, job.order.prompt)
        self._runner.wake()
        return job

    def _traced(self, job_id: str, sender: Sender) -> dict[str, str]:
        """Trace context for the work on a new job: a new span, or the caller's if tracing is off."""
        if self._observer.traces is None:
            return sender.context
        ids = {"job_id": job_id, "request_id": sender.request}
        return {**sender.context, "traceparent": self._observer.traces.ordered(ids, sender.context, self._spec.name)}

    async def _check_accepted(self, order: Order, caller: Caller, key: str | None) -> None:
        """Raises PafuError if no worker will ever take the order's cache or if the job limits are reached, unless the
        idempotency key is known."""
        if key is not None and await self._storage.ask(lambda store: store.has_key(caller.name, key)):
            return
        self._engine.check(order.cache)
        most = self._settings.max_queued_jobs
        unfinished = await self._storage.ask(lambda store: store.unfinished())
        if unfinished >= most:
            reason = f"{unfinished} videos are unfinished and the limit is {most}; try again later"
            raise PafuError("too_many_jobs", reason, retry_after=RETRY_AFTER)
        self._limits.check_job(caller, await self._storage.ask(lambda store: store.unfinished(caller.name)))

    # ---- existing jobs

    async def get(self, job_id: str, caller: Caller) -> Job:
        job = None if NUL in job_id else await self._storage.ask(lambda store: store.get(job_id, caller.name))
        if job is None:
            raise PafuError(
                "not_found", f"there is no video {job_id[:64]!r}; list them with GET /v1/videos", "video_id"
            )
        return job

    async def page(self, caller: Caller, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        try:
            if NUL in (after or ""):
                raise KeyError(after)
            return await self._storage.ask(lambda store: store.page(caller.name, after, limit, newest_first))
        except KeyError:
            reason = f"there is no video {after!r:.80}; list again without 'after'"
            raise PafuError("invalid_message", reason, "after") from None

    async def delete(self, job_id: str, caller: Caller) -> None:
        """Delete a video; running work stops before the next pass of the model."""
        try:
            deleted = NUL not in job_id and await self._storage.ask(lambda store: store.delete(job_id, caller.name))
        except PafuError:
            if self._room_left() > FULL_BELOW:
                raise
            await self.get(job_id, caller)  # a full disk has no room for the tombstone until the files are gone
            await self._stop(job_id)
            deleted = await self._storage.ask(lambda store: store.delete(job_id, caller.name))
        if not deleted:
            await self.get(job_id, caller)
        await self._stop(job_id)

    async def _stop(self, job_id: str) -> None:
        """Stop work on the job and delete its files."""
        await self._runner.cancel(job_id)
        await self._remove_files(job_id)

    async def _remove_files(self, job_id: str) -> None:
        try:
            await self._sweeper.remove_files(job_id)
        except FilesUnavailable as error:
            log.warning("%s: its files will be deleted by a later sweep: %s", job_id, error)

    async def content(self, job_id: str, variant: str, caller: Caller) -> tuple[str, int]:
        """Name and size of a result file."""
        if variant not in VARIANTS:
            raise PafuError(
                "invalid_message", f"variant {variant[:32]!r} is not one of {', '.join(VARIANTS)}", "variant"
            )
        results = (await self._completed(job_id, caller)).results
        assert isinstance(results, Results)
        name: str | None = getattr(results, variant)
        if name is None:
            reason = f"{job_id} was made by an older version without {variant}; a remix of it has one"
            raise PafuError("not_found", reason, "variant")
        return name, await self._storage.file(lambda files: files.size(name))

    async def piece(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a result file."""
        return await self._storage.file(lambda files: b"".join(files.chunks(name, start, stop)))

    async def over(self, job_id: str, caller: Caller) -> Job:
        """Wait until the job is completed or failed."""
        while (job := await self.get(job_id, caller)).state in (JobState.QUEUED, JobState.RUNNING):
            await self._runner.changed(WATCH_SECONDS)
        return job

    async def _completed(self, job_id: str, caller: Caller) -> Job:
        job = await self.get(job_id, caller)
        if job.state is JobState.COMPLETED:
            return job
        reasons = {
            JobState.FAILED: f"{job.id} failed ({job.error_code}): {job.error_message}",
            JobState.QUEUED: f"{job.id} is still queued; poll it until it is completed",
            JobState.RUNNING: f"{job.id} is still in progress; poll it until it is completed",
        }
        raise PafuError("not_completed", reasons[job.state], "video_id")
