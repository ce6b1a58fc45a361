"""Retention of finished jobs: deletes them by age and total size, then their files and rows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from server.config import Settings
from server.jobs.database import Database
from server.jobs.errors import StoreUnavailable
from server.jobs.files import FilesUnavailable
from server.jobs.job import Job

log = logging.getLogger("pafu.jobs")

SWEEP_SECONDS = 30.0
REMEMBER_SECONDS = 3600.0  # a tombstone stays this long: lease holders may still write, page cursors may still name it
ORPHAN_SECONDS = 3600.0  # age at which a folder without a job is deleted; a younger one may still be written
CLOCK_JUMP_SECONDS = 60.0
Clock = Callable[[], float]


def too_many_bytes(finished: list[Job], most: int) -> list[str]:
    """The oldest of ``finished`` (sorted oldest first) to delete so that the rest fits into ``most`` bytes."""
    total = sum(job.results.nbytes for job in finished if job.results)
    gone = []
    for job in finished:
        if total <= most:
            break
        if job.results:
            gone.append(job.id)
            total -= job.results.nbytes
    return gone


class Sweeper:
    """Applies retention every SWEEP_SECONDS.

    Age comes from the wall clock. A sweep that detects a clock jump deletes nothing by age; the next sweep trusts the
    new time if it persists.
    """

    def __init__(
        self, settings: Settings, database: Database, wall: Clock = time.time, steady: Clock = time.monotonic
    ) -> None:
        self._settings = settings
        self._database = database
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._sweep_loop(), name="jobs-sweeper")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep_loop(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except (StoreUnavailable, FilesUnavailable) as error:
                log.warning("sweep failed: %s", error)
            except Exception:
                log.exception("sweep failed")

    async def sweep(self) -> None:
        """Delete, in this order: expired or excess jobs, files of deleted jobs, their rows, orphaned folders."""
        now, jumped = self._wall(), self._clock_jumped()
        finished = await self._database.run(lambda store: store.finished())
        expired = [] if jumped else [job.id for job in finished if job.expires_at is not None and job.expires_at < now]
        for job_id in {*expired, *too_many_bytes(finished, self._settings.job_keep_bytes)}:
            log.info("%s: deleted by retention", job_id)
            await self._delete(job_id)
        for job_id in await self._database.run(lambda store: store.deleted()):
            await self.remove_files(job_id)
        if not jumped:
            for job_id in await self._database.run(lambda store: store.deleted(before=now - REMEMBER_SECONDS)):
                await self._forget(job_id)
            await self._remove_orphans()

    async def remove_files(self, job_id: str) -> None:
        """Delete a job's files. Raises FilesUnavailable."""
        await self._database.file(lambda files: files.remove_folder(job_id))

    async def _delete(self, job_id: str) -> None:
        await self._database.run(lambda store: store.delete(job_id))

    async def _forget(self, job_id: str) -> None:
        await self._database.run(lambda store: store.forget(job_id))

    async def _remove_orphans(self) -> None:
        folders = await self._database.file(lambda files: files.folders(ORPHAN_SECONDS))
        known = await self._database.run(lambda store: store.known(folders))
        for folder in set(folders) - known:
            await self.remove_files(folder)

    def _clock_jumped(self) -> bool:
        before, self._offset = self._offset, self._wall() - self._steady()
        jumped = abs(self._offset - before) > CLOCK_JUMP_SECONDS
        if jumped:
            log.warning("the clock jumped by %.0f s; this sweep deletes nothing by age", self._offset - before)
        return jumped
