"""Where a session goes, of several workers: pure arithmetic on what each holds and how fast it is.

The load that a session would bring a worker to is the larger of two shares: of the cache memory that it may hand out,
and of the sessions that it can play to in real time; of equal ones the smaller share decides. The worker with the
least load takes it, so fast devices get more, a device with small memory is not filled by its speed, and equal ones
take turns. A live session leaves jobs out of the second share, because a job only takes time that viewers leave over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Load:
    """One worker: bytes held and to be had, sessions held, and how many it can play to at once."""

    held_bytes: int
    room_bytes: int
    live: int
    background: int
    most: int

    def after(self, needed: int, background: bool) -> tuple[float, float]:
        """Both shares with one more session, whose cache takes ``needed`` bytes, the larger first; 1 is full."""
        sessions = self.live + 1 + (self.background if background else 0)
        memory, speed = (self.held_bytes + needed) / max(1, self.room_bytes), sessions / max(1, self.most)
        return max(memory, speed), min(memory, speed)


def least_loaded(workers: Iterable[tuple[Key, Load]], needed: int, background: bool) -> Key | None:
    """The worker that the session loads least, the first of equals; None without workers."""
    loads = [(load.after(needed, background), key) for key, load in workers]
    return min(loads, key=lambda pair: pair[0])[1] if loads else None


def share_of(most: int, workers: int) -> int:
    """Of ``most`` sessions on all workers, how many one of them takes."""
    return -(-most // workers)
