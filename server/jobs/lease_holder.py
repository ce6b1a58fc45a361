"""Holds the lease of one job: beats while its worker lives, and asks the store in the lease's name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from server.jobs.database import Database
from server.jobs.errors import LeaseLost, StoreUnavailable
from server.jobs.job import Lease

if TYPE_CHECKING:
    from server.jobs.store import JobStore

log = logging.getLogger("pafu.jobs")

T = TypeVar("T")
RETRY_SECONDS = 0.5


class LeaseHolder:
    """Of a ``lease`` that lapses after ``seconds`` without a beat."""

    def __init__(self, lease: Lease, database: Database, seconds: float) -> None:
        self._lease, self._database, self._seconds = lease, database, seconds
        self._safe_at = time.monotonic()  # when the store last confirmed the lease

    async def ask(self, query: Callable[[JobStore], T]) -> T:
        """Ask the store until it answers, but no longer than the lease is certainly ours. Raises StoreUnavailable."""
        while True:
            try:
                answer = await self._database.run(query)
            except StoreUnavailable as error:
                if time.monotonic() - self._safe_at > self._seconds:
                    raise
                log.warning("%s: %s", self._lease.job_id, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._safe_at = time.monotonic()
                return answer

    async def beat(self, silent_seconds: Callable[[], float], lost: Callable[[], None]) -> None:
        """Tell the store that the job is being worked on, as long as its worker is not silent for a whole lease. Calls
        ``lost`` when the lease is another's."""
        while True:
            await asyncio.sleep(self._seconds / 3)
            if silent_seconds() > self._seconds:
                continue
            try:
                await self._database.run(lambda store: store.beat(self._lease))
                self._safe_at = time.monotonic()
            except StoreUnavailable as error:
                log.warning("%s: no heartbeat: %s", self._lease.job_id, error)
            except LeaseLost:
                log.info("%s was deleted or is worked on elsewhere", self._lease.job_id)
                return lost()
