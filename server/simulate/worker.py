"""Simulates one worker chunk by chunk, to count missed deadlines for a number of viewers.

It uses the server's own playout clocks and scheduler (server.worker.scheduler), so it cannot diverge from the server.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from server.worker.scheduler import Playout, choose, seconds_until_due

LONGEST_SLEEP = 1.0  # seconds
START_WITH = 1.0  # seconds of media that a player buffers before it starts


@dataclass(frozen=True)
class Service:
    """Measured chunk times: ``quantiles`` are (share, seconds); ``media_seconds`` is a chunk's playing time."""

    quantiles: tuple[tuple[float, float], ...]
    media_seconds: float

    def draw(self, dice: random.Random) -> float:
        """A random chunk time, interpolated between the measured quantiles."""
        share = dice.random()
        for (low, a), (high, b) in zip(self.quantiles, self.quantiles[1:], strict=False):
            if share <= high:
                return a + (b - a) * (share - low) / (high - low)
        return self.quantiles[-1][1]

    def times(self, factor: float) -> Service:
        """The service whose chunks take ``factor`` times as long."""
        return Service(tuple((share, factor * seconds) for share, seconds in self.quantiles), self.media_seconds)

    @property
    def mean(self) -> float:
        """The mean chunk time."""
        pairs = zip(self.quantiles, self.quantiles[1:], strict=False)
        return sum((a + b) / 2 * (high - low) for (low, a), (high, b) in pairs)


@dataclass(frozen=True)
class Load:
    """The load of ``viewers`` on one worker: shares of busy time and missed deadlines, longest stall in seconds."""

    viewers: int
    busy: float
    missed: float
    worst_stall: float


def load_of(service: Service, viewers: int, lead: float, chunks: int, seed: int, come_within: float = 0.0) -> Load:
    """Simulate ``chunks`` chunks per viewer. They come within ``come_within`` seconds; a deadline is missed if one has
    nothing left to play."""
    dice = random.Random(f"{seed}/{viewers}")
    coming = sorted((dice.uniform(0, come_within), number) for number in range(viewers))
    playouts: dict[int, Playout] = {}  # of the viewers who are there
    last = [0.0] * viewers  # when the newest chunk arrived
    now = busy = worst = 0.0
    made, missed = [0] * viewers, 0
    while coming or playouts:
        while coming and coming[0][0] <= now:
            playouts[coming.pop(0)[1]] = Playout(lead)
        chosen = choose(playouts.items(), now)
        if chosen is None:
            longest = min([LONGEST_SLEEP, *(at - now for at, _ in coming[:1])])
            now += max(1e-3, seconds_until_due(playouts.values(), now, longest))
            continue
        seconds = service.draw(dice)
        now, busy = now + seconds, busy + seconds
        playout = playouts[chosen]
        playout.add_generated(service.media_seconds)
        playout.add_sent(service.media_seconds)
        if made[chosen] * service.media_seconds > START_WITH:  # before that, the player has not started
            ran_dry = playout.delivered - playout.playhead(now) <= 0
            stall = now - last[chosen] - service.media_seconds if ran_dry else 0.0
            missed, worst = missed + ran_dry, max(worst, stall)
        playout.add_delivered(service.media_seconds, now)
        last[chosen] = now
        made[chosen] += 1
        if made[chosen] == chunks:
            del playouts[chosen]
    return Load(viewers, busy / now, missed / sum(made), worst)


def loads(service: Service, most: int, lead: float, chunks: int, seed: int) -> Sequence[Load]:
    """The loads of 0 to ``most`` viewers."""
    idle = Load(0, 0.0, 0.0, 0.0)
    return [idle, *(load_of(service, viewers, lead, chunks, seed) for viewers in range(1, most + 1))]
