"""Detects lapsed leases by this server's monotonic clock only."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.jobs.job import Lease


class LeaseMonitor:
    """Observes the beats of all leases; a lease whose beat does not change for ``lease_seconds`` has lapsed."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[Lease, tuple[int, float]] = {}  # last beat, and when it was first seen

    def lapsed(self, beats: dict[Lease, int]) -> list[tuple[Lease, int]]:
        """The lapsed leases among ``beats``, with their beats."""
        now = self._clock()
        before, self._seen = self._seen, {}
        for lease, beat in beats.items():
            last, since = before.get(lease, (beat, now))
            self._seen[lease] = (beat, since if last == beat else now)
        return [(lease, beat) for lease, (beat, since) in self._seen.items() if now - since >= self._lease_seconds]
