"""Convert fragmented MP4 to plain MP4 with the index first, so that players open and seek at once.

Packets are copied, not re-encoded. Without B-frames, the video can end after any picture.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import IO

import av


def copy(fragments: str | Path | IO[bytes], path: Path, fps: int, pictures: int | None = None, title: str = "") -> int:
    """Write the first ``pictures`` pictures (None: all) of the fragments to ``path`` as plain MP4.

    Returns the number of pictures written. Raises av.FFmpegError if the input is not MP4, and OSError.
    """
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
    """Convert the fragments in ``part`` to the video ``path`` atomically, then delete ``part``.

    Returns the number of pictures. Raises OSError, and then keeps ``part``.
    """
    whole = path.with_name(f"{path.name}.whole")
    try:
        number = copy(part, whole, fps, pictures)
        os.replace(whole, path)
    except av.FFmpegError as error:
        raise OSError(error.errno, f"the MP4 index cannot be written: {error.strerror}") from error
    finally:
        whole.unlink(missing_ok=True)
    if part != path:
        part.unlink(missing_ok=True)
    return number
