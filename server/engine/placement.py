"""Choose the worker for a session: arithmetic on the memory and speed of each worker.

A worker's load with the new session is the larger of two shares: of its cache memory, and of the sessions that it can
run in real time. The smaller share breaks ties. The least loaded worker takes the session, so faster devices get more
sessions, a device with little memory is not overfilled because it is fast, and equal devices take turns. For a live
session the second share ignores jobs, which only use time that viewers leave over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Load:
    """One worker's load: bytes used and available, live and background sessions, and the session limit ``most``."""

    held_bytes: int
    room_bytes: int
    live: int
    background: int
    most: int

    def after(self, needed: int, background: bool) -> tuple[float, float]:
        """Both shares with one more session of ``needed`` bytes, the larger first; 1 means full."""
        sessions = self.live + 1 + (self.background if background else 0)
        memory, speed = (self.held_bytes + needed) / max(1, self.room_bytes), sessions / max(1, self.most)
        return max(memory, speed), min(memory, speed)


def least_loaded(workers: Iterable[tuple[Key, Load]], needed: int, background: bool) -> Key | None:
    """The worker with the least load after adding the session, the first among equals; None without workers."""
    loads = [(load.after(needed, background), key) for key, load in workers]
    return min(loads, key=lambda pair: pair[0])[1] if loads else None


def share_of(most: int, workers: int) -> int:
    """One worker's share of ``most`` sessions, rounded up."""
    return -(-most // workers)
