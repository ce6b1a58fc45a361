"""Holds the lease of one job: sends heartbeats while its worker is alive, and queries the store under the lease."""

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
    """Keeps a ``lease`` that lapses after ``seconds`` without a heartbeat."""

    def __init__(self, lease: Lease, database: Database, seconds: float) -> None:
        self._lease, self._database, self._seconds = lease, database, seconds
        self._safe_at = time.monotonic()  # when the store last confirmed the lease

    async def ask(self, query: Callable[[JobStore], T]) -> T:
        """Retry a query until the store answers, while the lease is certainly valid. Raises StoreUnavailable."""
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
        """Send heartbeats to the store, except while the worker has been silent for a whole lease.

        Calls ``lost`` if another server has the lease.
        """
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
                log.info("%s was deleted or taken over by another server", self._lease.job_id)
                return lost()
