"""Who is generated next: pure arithmetic on playout clocks; no tensors, no sockets, no clock of its own.

A viewer's *lead* is the media that was generated but not yet played. A session whose lead has reached its limit
waits, so a viewer who is far ahead (or has stopped watching) costs nothing. Of those that are due, the one with the
least *slack* is next: the media that would still be unplayed if the viewer played in real time. A background session
(a job) has no viewer; it gets a chunk only when that leaves every live viewer enough slack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

Key = TypeVar("Key")
UNDELIVERED = 0.2  # seconds of media that may lie about undelivered while the next chunk is begun
ROUNDING = 1e-3  # a sleep that ends a hair too early would only be slept again


class Playout:
    """The playout clock of one session; all times are seconds, ``now`` is any monotonic clock.

    A viewer who reports a playhead is believed up to what was delivered; one who never reports is taken to play in
    real time. A viewer who takes more than real time (a recorder) is served, but only with what others leave over:
    its slack is that of a real-time viewer.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.paused = False
        self.generated = 0.0  # begun
        self.sent = 0.0
        self.delivered = 0.0
        self._reported: float | None = None
        self._clock = 0.0  # where a viewer in real time would be; stands still while nothing is left to play
        self._clock_read: float | None = None

    def add_generated(self, seconds: float) -> None:
        """A chunk of so much media is begun."""
        self.generated += seconds

    def add_sent(self, seconds: float) -> None:
        """A chunk of so much media is on its way to the viewer."""
        self.sent += seconds

    def add_delivered(self, seconds: float, now: float) -> None:
        """A chunk of so much media has left for the viewer."""
        self._advance(now)
        self._clock_read = now
        self.delivered = min(self.sent, self.delivered + seconds)

    def go_on(self, seconds: float) -> None:
        """So much media was made and delivered before this clock began."""
        self.generated = self.sent = self.delivered = self._clock = seconds

    def joined(self, now: float) -> None:
        """A viewer comes, or goes on: it plays from where the last report was, until it reports itself."""
        if self._reported is not None:
            self._clock, self._reported = self._reported, None
        self._clock_read = now

    def report(self, position: float) -> None:
        """The viewer says that it shows the picture at ``position``."""
        self._reported = max(0.0, min(position, self.delivered))

    def playhead(self, now: float) -> float:
        """Media time that the viewer has reached."""
        return self._advance(now) if self._reported is None else self._reported

    def lead(self, now: float) -> float:
        """Media generated ahead of the playhead."""
        return self.generated - self.playhead(now)

    def slack(self, now: float) -> float:
        """How long a viewer in real time could still play."""
        return self.generated - min(self.playhead(now), self._advance(now))

    def wait(self, now: float) -> float:
        """Seconds until the next chunk may begin: 0 when due, infinite when only a message can change that."""
        unread = self.sent - self.delivered > UNDELIVERED
        first = self.generated > self.sent and not self.delivered  # a viewer who never reads costs one chunk
        if self.paused or unread or first:
            return math.inf
        excess = self.lead(now) - self.limit
        if excess < 0:
            return 0.0
        left_to_play = self.delivered - self.playhead(now)
        plays_there = self._reported is None and excess < left_to_play
        return excess + ROUNDING if plays_there else math.inf

    def _advance(self, now: float) -> float:
        if self._clock_read is not None:
            self._clock = min(self.delivered, self._clock + max(0.0, now - self._clock_read))
            self._clock_read = now
        return self._clock


def choose(playouts: Iterable[tuple[Key, Playout]], now: float) -> Key | None:
    """The key of the due session with the least slack (the first of equals), or None when nobody is due."""
    due = [(playout.slack(now), key) for key, playout in playouts if playout.wait(now) == 0.0]
    return min(due, key=lambda pair: pair[0])[1] if due else None


def leaves_room(live: Iterable[tuple[Playout, float]], seconds: float, now: float) -> bool:
    """Whether ``seconds`` of other work can go first and still no viewer runs dry.

    ``live`` are playout clocks with the seconds that one of their chunks takes; the closest to running dry goes first.
    Who waits for a message only (paused, gone, not reading) needs nothing.
    """
    needing = sorted((playout.slack(now), cost) for playout, cost in live if playout.wait(now) < math.inf)
    done = seconds
    for slack, cost in needing:
        done += cost
        if slack < done:
            return False
    return True


def seconds_until_due(playouts: Iterable[Playout], now: float, longest: float) -> float:
    """How long a worker may sleep before somebody can be due; at most ``longest``."""
    return min([longest, *(playout.wait(now) for playout in playouts)])
