"""Fragmented MP4 as a plain MP4 with its index in front, which players open and seek in at once.

Nothing is encoded again: the packets are copied. There are no B-frames, so any picture may be the last.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import IO

import av


def copy(fragments: str | Path | IO[bytes], path: Path, fps: int, pictures: int | None = None, title: str = "") -> int:
    """Write the first ``pictures`` of the fragments (None: all) to ``path`` as plain MP4 under this title; how many
    there were. Raises av.FFmpegError for what is no MP4, and OSError."""
    number, tick = 0, Fraction(1, fps)
    with (
        av.open(fragments if not isinstance(fragments, Path) else str(fragments), "r") as source,
        av.open(str(path), "w", "mp4", options={"movflags": "faststart"}) as target,
    ):
        track = source.streams.video[0]
        copied = target.add_stream_from_template(track)
        copied.time_base = tick
        if title:
            target.metadata["title"] = title
        for packet in source.demux(track):
            if packet.size == 0 or (pictures is not None and number >= pictures):
                continue
            packet.time_base, packet.duration = tick, 1
            packet.pts = packet.dts = number
            packet.stream = copied
            target.mux(packet)
            number += 1
    return number


def finish(part: Path, path: Path, fps: int, pictures: int | None = None) -> int:
    """Make the video ``path`` of the fragments in ``part``, in one step; the part goes. Raises OSError, and
    leaves the part."""
    whole = path.with_name(f"{path.name}.whole")
    try:
        number = copy(part, whole, fps, pictures)
        os.replace(whole, path)
    except av.FFmpegError as error:
        raise OSError(error.errno, f"its index cannot be written: {error.strerror}") from error
    finally:
        whole.unlink(missing_ok=True)
    if part != path:
        part.unlink(missing_ok=True)
    return number
