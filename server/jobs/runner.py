"""Claims jobs and runs an attempt (server.jobs.attempt) for each, as many at once as the settings allow."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from model.spec import ModelSpec
from server.config import Settings
from server.engine.interface import Engine
from server.jobs.attempt import Attempt
from server.jobs.database import Database
from server.jobs.errors import StoreUnavailable
from server.jobs.job import Job, Lease
from server.jobs.lease_monitor import LeaseMonitor
from server.states import EngineState, WorkerState

log = logging.getLogger("pafu.jobs")

POLL_SECONDS = 1.0  # how often the leases of other servers are checked
CLAIM_WITHIN = 1.0  # seconds


class Runner:
    """Claims and runs this server's jobs."""

    def __init__(self, settings: Settings, spec: ModelSpec, engine: Engine, database: Database) -> None:
        self._settings = settings
        self._spec = spec
        self._engine = engine
        self._database = database
        self._attempts: dict[str, Attempt] = {}
        self._leases = LeaseMonitor(settings.job_lease_seconds)
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()  # set when any attempt ends, then replaced
        self._loop: asyncio.Task[None] | None = None
        self._draining = False

    # ---- for the front

    def start(self) -> None:
        self._loop = asyncio.create_task(self._claim_loop(), name="jobs")

    def wake(self) -> None:
        """A job was queued: look for it now."""
        self._wake.set()

    async def cancel(self, job_id: str) -> None:
        """The job was deleted: abandon its attempt."""
        if attempt := self._attempts.get(job_id):
            await attempt.abandon()

    async def changed(self, within: float) -> None:
        """Wait until any attempt ends, at most ``within`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._ended.wait()

    async def drain(self, within: float) -> None:
        """Stop claiming, finish and store the current chunks, return all jobs to the queue. Bounded in time."""
        await self._stop_claiming()
        for attempt in list(self._attempts.values()):
            await attempt.finish_chunk()
        await self._settle(within)
        await self.give_back(within / 2)

    async def give_back(self, within: float) -> None:
        """Abandon the current chunks and return all jobs to the queue, so that other servers can take them at once."""
        await self._stop_claiming()
        await asyncio.sleep(0)  # a task cancelled before its first step would not release its job
        for attempt in list(self._attempts.values()):
            attempt.cancel()
        await self._settle(within)

    async def _stop_claiming(self) -> None:
        """Stop claiming, but wait for a claim in progress, whose lease could not be released otherwise."""
        self._draining = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait((self._loop,), timeout=CLAIM_WITHIN)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _settle(self, within: float) -> None:
        if tasks := [attempt.task for attempt in self._attempts.values()]:
            await asyncio.wait(tasks, timeout=within)

    # ---- claiming

    async def _claim_loop(self) -> None:
        while not self._draining:
            self._wake.clear()
            try:
                while self._has_room() and (claimed := await self._claim()):
                    self._begin(*claimed)
            except StoreUnavailable as error:
                log.debug("cannot claim jobs: %s", error)  # the database has logged it
            except Exception:
                log.exception("claiming jobs failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    def _has_room(self) -> bool:
        """Whether another job fits; never without a ready worker."""
        status, most = self._engine.status(), self._settings.jobs_at_once
        if most is None:
            most = sum(worker.state is WorkerState.READY for worker in status.workers)
        return status.state is EngineState.READY and not self._draining and len(self._attempts) < most

    async def _claim(self) -> tuple[Job, Lease] | None:
        """Claim a job whose lease has lapsed, or else the oldest queued job."""
        name = self._spec.name
        held = await self._database.run(lambda store: store.held(name))
        for lease, beat in self._leases.lapsed(held):
            mine = self._attempts.get(lease.job_id)
            if mine is not None and mine.lease == lease:
                continue
            if taken := await self._take_over(lease, beat):
                log.warning("%s: its lease has lapsed; continuing from chunk %d", lease.job_id, taken[0].chunks)
                return taken
        return await self._database.run(lambda store: store.claim(name))

    async def _take_over(self, lease: Lease, beat: int) -> tuple[Job, Lease] | None:
        return await self._database.run(lambda store: store.take_over(lease, beat))

    def _begin(self, job: Job, lease: Lease) -> None:
        attempt = Attempt(job, lease, self._settings, self._spec, self._engine, self._database)
        attempt.finishing = self._draining
        self._attempts[job.id] = attempt
        # a callback, because a task cancelled before its first step runs none of its code
        attempt.task.add_done_callback(lambda _: self._forget(attempt))

    def _forget(self, attempt: Attempt) -> None:
        """The attempt has ended: another job may be claimed."""
        del self._attempts[attempt.lease.job_id]
        self._wake.set()
        ended, self._ended = self._ended, asyncio.Event()
        ended.set()
        if not attempt.task.cancelled() and (error := attempt.task.exception()):
            log.warning("%s: attempt failed, its lease will lapse: %s", attempt.lease.job_id, error)
