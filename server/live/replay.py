"""The chunks that a viewer may still need: what it has not seen yet, and nothing more."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from server.ipc.messages import Fragment

NO_LATENTS = b""


@dataclass(frozen=True)
class Kept:
    """A fragment and the media time at which it begins and ends, seconds."""

    fragment: Fragment
    begins: float
    ends: float


class Replay:
    """Fragments in order; ``seen`` drops those that the viewer has played."""

    def __init__(self, fps: int, seconds: float = 0.0) -> None:
        self._fps = fps
        self._end = seconds
        self._kept: deque[Kept] = deque()

    def add(self, fragment: Fragment) -> None:
        """Keep the newest fragment, without its latents: they have a place of their own."""
        light = msgspec.structs.replace(fragment, past=msgspec.structs.replace(fragment.past, latents=NO_LATENTS))
        begins, self._end = self._end, self._end + fragment.pictures / self._fps
        self._kept.append(Kept(light, begins, self._end))

    def seen(self, seconds: float, keep: int = 0) -> None:
        """The viewer shows the picture at ``seconds``: whole fragments before it go, but for the newest ``keep``."""
        while len(self._kept) > keep and self._kept[0].ends <= seconds + 1e-6:
            self._kept.popleft()

    def at(self, index: int) -> Fragment | None:
        """The fragment with this index, or the first behind it."""
        return next((kept.fragment for kept in self._kept if kept.fragment.index >= index), None)

    def ends_at(self, index: int) -> float:
        """Media time behind fragment ``index``; 0 when it is not kept."""
        return next((kept.ends for kept in self._kept if kept.fragment.index == index), 0.0)

    @property
    def first(self) -> int | None:
        """Index of the oldest fragment kept."""
        return self._kept[0].fragment.index if self._kept else None

    @property
    def newest(self) -> Fragment | None:
        return self._kept[-1].fragment if self._kept else None

    @property
    def fragments(self) -> list[Fragment]:
        return [kept.fragment for kept in self._kept]

    @property
    def begins(self) -> float:
        """Media time at which the oldest fragment begins."""
        return self._kept[0].begins if self._kept else self._end

    @property
    def seconds(self) -> float:
        """Media kept."""
        return self._end - self.begins

    @property
    def nbytes(self) -> int:
        return sum(len(kept.fragment.data) + sum(map(len, kept.fragment.jpegs)) for kept in self._kept)
