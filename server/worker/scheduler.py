"""Choose the next session to generate: pure arithmetic on playout clocks, without tensors, sockets or a clock.

A viewer's *lead* is the media generated but not yet played. A session whose lead has reached its limit waits, so a
viewer who is far ahead, or has stopped watching, costs nothing. Of the due sessions, the one with the least *slack* is
next: the media that would still be unplayed if the viewer played in real time. A background session (a job) has no
viewer; it gets a chunk only if every live viewer keeps enough slack.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

Key = TypeVar("Key")
UNDELIVERED = 0.2  # seconds of media that may be undelivered when the next chunk starts
ROUNDING = 1e-3  # added to waits, so that a sleep does not end slightly too early


class Playout:
    """The playout clock of one session. All times are seconds; ``now`` comes from any monotonic clock.

    A reported playhead is trusted up to what was delivered; a viewer who never reports is assumed to play in real time.
    A viewer faster than real time (a recorder) gets only what others leave over, since its slack is computed as for
    real-time playback.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.paused = False
        self.generated = 0.0  # media of all chunks started
        self.sent = 0.0
        self.delivered = 0.0
        self.last_delivery = -math.inf
        self._reported: float | None = None
        self._clock = 0.0  # the position of a real-time viewer; stops while nothing is left to play
        self._clock_read: float | None = None

    def add_generated(self, seconds: float) -> None:
        """A chunk of this many media seconds was started."""
        self.generated += seconds

    def add_sent(self, seconds: float) -> None:
        """A chunk of this many media seconds was sent to the front."""
        self.sent += seconds

    def add_delivered(self, seconds: float, now: float) -> None:
        """A chunk of this many media seconds was delivered to the viewer."""
        self._advance(now)
        self._clock_read = self.last_delivery = now
        self.delivered = min(self.sent, self.delivered + seconds)

    def continue_after(self, seconds: float) -> None:
        """Start after media that was generated and delivered elsewhere."""
        self.generated = self.sent = self.delivered = self._clock = seconds

    def joined(self, now: float) -> None:
        """A viewer joins or resumes: it plays from the last reported position until it reports a new one."""
        if self._reported is not None:
            self._clock, self._reported = self._reported, None
        self._clock_read = now

    def report(self, position: float) -> None:
        """The viewer reports its playhead."""
        self._reported = max(0.0, min(position, self.delivered))

    def playhead(self, now: float) -> float:
        """The viewer's position in media seconds."""
        return self._advance(now) if self._reported is None else self._reported

    def lead(self, now: float) -> float:
        """Seconds of media generated ahead of the playhead."""
        return self.generated - self.playhead(now)

    def slack(self, now: float) -> float:
        """Seconds for which a real-time viewer can still play."""
        return self.generated - min(self.playhead(now), self._advance(now))

    def wait(self, now: float) -> float:
        """Seconds until the next chunk may start: 0 if due, infinite if only a message can make it due."""
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
    """The key of the due session with the least slack, or None if none is due.

    Of equals, the one whose last delivery is longest ago: on an overloaded worker many have nothing left to play, and
    all of them must get their turn.
    """
    due = [(playout.slack(now), playout.last_delivery, key) for key, playout in playouts if playout.wait(now) == 0.0]
    return min(due, key=lambda each: each[:2])[2] if due else None


def leaves_room(live: Iterable[tuple[Playout, float]], seconds: float, now: float) -> bool:
    """Whether ``seconds`` of other work fit in before any viewer runs out of media.

    ``live`` holds playout clocks, each with the seconds that a chunk takes; those with the least slack go first.
    Sessions that only a message can make due (paused, gone, not reading) need nothing.
    """
    needing = sorted((playout.slack(now), cost) for playout, cost in live if playout.wait(now) < math.inf)
    done = seconds
    for slack, cost in needing:
        done += cost
        if slack < done:
            return False
    return True


def seconds_until_due(playouts: Iterable[Playout], now: float, longest: float) -> float:
    """How long a worker may sleep until a session may be due; at most ``longest``."""
    return min([longest, *(playout.wait(now) for playout in playouts)])
