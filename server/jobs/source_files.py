"""Files that a new job copies from the video that it remixes or extends."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from server.config import Settings
from server.errors import RETRY_AFTER, PafuError
from server.jobs.files import Files
from server.jobs.job import CarryOrder, Job, Order, StoredChunk, carried_name
from server.jobs.storage import Storage
from server.process import answer_of, module_command

CARRY_COMMAND = module_command("server.jobs.carry")
log = logging.getLogger("pafu.jobs")


class SourceFiles:
    """Prepares a new job's files. Each method returns the order and the initial chunks, and raises PafuError."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._settings, self._storage = settings, storage
        self._carrying = asyncio.Lock()

    async def adopt(
        self, source: Job, order: Order, given: list[StoredChunk], job_id: str
    ) -> tuple[Order, list[StoredChunk]]:
        """Copy the source's chunks and carried pictures, so that this job does not depend on it."""
        adopted = [
            StoredChunk(number=c.number, media=f"{job_id}/{c.number:06d}-0.m4s", past=f"{job_id}/{c.number:06d}-0.past")
            for c in given
        ]

        def copy(files: Files) -> None:
            for old, new in zip(given, adopted, strict=True):
                files.copy(old.media, new.media)
                files.copy(old.past, new.past)
            if order.carried:
                files.copy(carried_name(source.id), carried_name(job_id))

        if given or order.carried:
            await self._storage.file(copy)
        return order, adopted

    async def carry(self, source: Job, order: Order, job_id: str) -> tuple[Order, list[StoredChunk]]:
        """Convert the source's pictures in a child process; one at a time, since each uses a core."""
        wanted = CarryOrder.of(source, job_id, order, self._settings)
        async with self._carrying:
            status, png, errors = await answer_of(CARRY_COMMAND, msgspec.json.encode(wanted))
        if status:
            log.warning(
                "%s: its pictures cannot be converted: %s", source.id, errors.decode(errors="replace").strip()[-500:]
            )
            reason = f"the pictures of {source.id} cannot be read now; try again later"
            raise PafuError("storage_unavailable", reason, "video", retry_after=RETRY_AFTER)
        return msgspec.structs.replace(order, image=png), []
