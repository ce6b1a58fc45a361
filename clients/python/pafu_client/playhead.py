"""The playhead that a client without a screen reports: pure arithmetic on seconds."""

from __future__ import annotations


class Playhead:
    """The position of a simulated viewer in seconds of media; never beyond what the reader has taken.

    realtime: advance with the clock and stop when nothing is left. Otherwise everything taken counts as played, so that
    the server continues at once.
    """

    def __init__(self, realtime: bool) -> None:
        self._realtime = realtime
        self._taken = 0.0
        self._position = 0.0
        self._seen_at: float | None = None

    def take(self, seconds: float, now: float) -> None:
        """The reader took ``seconds`` of media at time ``now``."""
        self.position(now)
        if self._seen_at is None:
            self._seen_at = now
        self._taken += seconds

    def position(self, now: float) -> float:
        """Seconds of media played at time ``now``."""
        if not self._realtime:
            self._position = self._taken
        elif self._seen_at is not None:
            self._position = min(self._taken, self._position + now - self._seen_at)
            self._seen_at = now
        return self._position
