"""The replay buffer: chunks that the owner has not played yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from server.ipc.messages import Fragment

NO_LATENTS = b""


@dataclass(frozen=True)
class ReplayEntry:
    """A fragment with its start and end in media seconds."""

    fragment: Fragment
    begins: float
    ends: float


class Replay:
    """Fragments in order; ``seen`` drops the played ones."""

    def __init__(self, fps: int, seconds: float = 0.0) -> None:
        self._fps = fps
        self._end = seconds
        self._entries: deque[ReplayEntry] = deque()

    def add(self, fragment: Fragment) -> None:
        """Add the newest fragment without its latents, which the resume point keeps."""
        light = msgspec.structs.replace(fragment, past=msgspec.structs.replace(fragment.past, latents=NO_LATENTS))
        begins, self._end = self._end, self._end + fragment.pictures / self._fps
        self._entries.append(ReplayEntry(light, begins, self._end))

    def seen(self, seconds: float, keep: int = 0) -> None:
        """The playhead is at ``seconds``: drop the fragments that end before it, but keep the newest ``keep``."""
        while len(self._entries) > keep and self._entries[0].ends <= seconds + 1e-6:
            self._entries.popleft()

    def at(self, index: int) -> Fragment | None:
        """The fragment with this index, or else the next one."""
        return next((entry.fragment for entry in self._entries if entry.fragment.index >= index), None)

    def ends_at(self, index: int) -> float:
        """End of fragment ``index`` in media seconds; 0 if it is not kept."""
        return next((entry.ends for entry in self._entries if entry.fragment.index == index), 0.0)

    @property
    def first(self) -> int | None:
        """Index of the oldest fragment; None if empty."""
        return self._entries[0].fragment.index if self._entries else None

    @property
    def newest(self) -> Fragment | None:
        return self._entries[-1].fragment if self._entries else None

    @property
    def fragments(self) -> list[Fragment]:
        return [entry.fragment for entry in self._entries]

    @property
    def begins(self) -> float:
        """Start of the oldest fragment in media seconds."""
        return self._entries[0].begins if self._entries else self._end

    @property
    def ends(self) -> float:
        """End of the newest fragment in media seconds."""
        return self._end

    @property
    def seconds(self) -> float:
        """Length of the kept media in seconds."""
        return self._end - self.begins

    @property
    def nbytes(self) -> int:
        return sum(len(entry.fragment.data) + sum(map(len, entry.fragment.jpegs)) for entry in self._entries)
