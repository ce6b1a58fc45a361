"""Which leases have lapsed, judged by this server's own monotonic clock: no other clock is asked."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.jobs.job import Lease


class LeaseMonitor:
    """Is shown the beats of all leases now and then; one that stands still for a whole lease has lapsed."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[Lease, tuple[int, float]] = {}  # beat, and since when it stands

    def lapsed(self, beats: dict[Lease, int]) -> list[tuple[Lease, int]]:
        """Leases, with their beats, that stand still for too long."""
        now = self._clock()
        before, self._seen = self._seen, {}
        for lease, beat in beats.items():
            last, since = before.get(lease, (beat, now))
            self._seen[lease] = (beat, since if last == beat else now)
        return [(lease, beat) for lease, (beat, since) in self._seen.items() if now - since >= self._lease_seconds]
