"""A live session as low-latency HLS (RFC 8216bis): each chunk is a part, several parts form a segment.

``HlsWindow`` keeps the newest segments and writes the playlist; ``server.live.hls_output`` fills it. Numbers are
derived from chunk indices, so every server that continues the session uses the same ones.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from model.spec import ModelSpec
from server.errors import PafuError

SEGMENT_SECONDS = 1.0  # at least; players without support for parts lag a few segments
FIRST = 3  # complete segments in the first playlist; with fewer, some players give up
LISTED, KEPT = 8, 12  # segments in the playlist; segments in memory, for players with an older playlist
WITH_PARTS = 3  # newest segments whose parts are listed
AHEAD = 2  # segments beyond the newest that a player may request


@dataclass(frozen=True)
class Part:
    """One chunk: ``moof`` and ``mdat``, starting with a key frame."""

    index: int
    seconds: float
    data: bytes


@dataclass
class Segment:
    """Consecutive parts; ``whole`` once no part will be added."""

    number: int
    parts: list[Part] = field(default_factory=list)
    whole: bool = False

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def data(self) -> bytes:
        return b"".join(part.data for part in self.parts)


class HlsWindow:
    """The newest segments of one session."""

    def __init__(self, spec: ModelSpec) -> None:
        self._fps = spec.fps
        self._part_seconds = spec.pictures_in_chunk(1) / spec.fps
        self._parts_each = math.ceil(SEGMENT_SECONDS / self._part_seconds)
        self._target = math.ceil(self._parts_each * self._part_seconds)
        self._segments: deque[Segment] = deque()
        self.ended = False

    @property
    def patience(self) -> float:
        """Seconds that a request may block for new media, from the standard."""
        return 3.0 * self._target

    @property
    def playable(self) -> bool:
        """Whether there is enough to start playback, even without support for parts."""
        return sum(segment.whole for segment in self._segments) >= (1 if self.ended else FIRST)

    def add(self, index: int, pictures: int, data: bytes) -> None:
        """Add the next chunk; after a gap, drop all earlier ones."""
        newest = self._segments[-1] if self._segments else None
        if newest is not None and index != newest.parts[-1].index + 1:
            self._segments.clear()
            newest = None
        if newest is None or newest.whole:
            newest = Segment(index // self._parts_each)
            self._segments.append(newest)
        newest.parts.append(Part(index, pictures / self._fps, data))
        newest.whole = (index + 1) % self._parts_each == 0
        while len(self._segments) > KEPT:
            self._segments.popleft()

    def end(self) -> None:
        """Mark the stream as ended."""
        self.ended = True
        if self._segments:
            self._segments[-1].whole = True

    def has(self, number: int, part: int | None) -> bool:
        """Whether the playlist has this part of this segment (None: the whole segment).

        Raises PafuError for a segment too far ahead.
        """
        newest = self._segments[-1]
        if number > newest.number + AHEAD:
            reason = f"the newest segment is {newest.number}; allowed: up to {newest.number + AHEAD}"
            raise PafuError("invalid_message", reason, "_HLS_msn")
        if number != newest.number:
            return number < newest.number
        return newest.whole if part is None else part < len(newest.parts)

    def part(self, index: int) -> bytes | None:
        """The part with this chunk index; None if it is not kept."""
        found = (part for segment in self._segments for part in segment.parts if part.index == index)
        return next((part.data for part in found), None)

    def segment(self, number: int) -> bytes | None:
        """The segment with this number; None if it is not kept or incomplete."""
        return next((each.data for each in self._segments if each.number == number and each.whole), None)

    def comes_next(self, index: int) -> bool:
        """Whether this is the next part, for which a request may block."""
        newest = self._segments[-1].parts[-1].index if self._segments else index
        return not self.ended and newest < index <= newest + 1

    def playlist(self) -> str:
        """The current media playlist, with relative URLs."""
        listed = list(self._segments)[-LISTED:]
        with_parts = listed[-WITH_PARTS:]
        hold = f"PART-HOLD-BACK={3 * self._part_seconds:g},HOLD-BACK={3 * self._target}"
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:9",
            f"#EXT-X-TARGETDURATION:{self._target}",
            f"#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,{hold}",
            f"#EXT-X-PART-INF:PART-TARGET={self._part_seconds:g}",
            f"#EXT-X-MEDIA-SEQUENCE:{listed[0].number if listed else 0}",
            "#EXT-X-INDEPENDENT-SEGMENTS",
            '#EXT-X-MAP:URI="init.mp4"',
        ]
        for segment in listed:
            lines += _lines(segment, parts=segment in with_parts)
        lines.append("#EXT-X-ENDLIST" if self.ended else self._hint(listed))
        return "\n".join(lines) + "\n"

    def _hint(self, listed: list[Segment]) -> str:
        following = listed[-1].parts[-1].index + 1 if listed else 0
        return f'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="part{following}.m4s"'


def _lines(segment: Segment, parts: bool) -> list[str]:
    lines = [
        f'#EXT-X-PART:DURATION={part.seconds:g},URI="part{part.index}.m4s",INDEPENDENT=YES'
        for part in segment.parts
        if parts
    ]
    whole = [f"#EXTINF:{segment.seconds:g},", f"segment{segment.number}.m4s"]
    return lines + (whole if segment.whole else [])
