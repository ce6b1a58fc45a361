"""A short loop of a video as an animated WebP, for places that show images but play no video.

The loop plays forward, then backward, so it has no visible cut. The front imports no codec, so it runs this module as a
process (``COMMAND``) that reads the video on stdin and writes the WebP to stdout.
"""

from __future__ import annotations

import io
import os
import sys
from itertools import islice
from typing import Any

from PIL import Image

from server.process import leave_signals_to_the_front, module_command

COMMAND = module_command("server.media.loop")
MEDIA_TYPE = "image/webp"
SECONDS = 3.0  # of video used; the loop lasts almost twice as long
RATE = 8  # pictures per second
WIDEST = 320  # pixels
QUALITY = 60


def loop_of(video: bytes, seconds: float = SECONDS) -> bytes:
    """An animated WebP of the first ``seconds`` of ``video`` (any container). Raises ValueError if it has none."""
    pictures = _pictures(video, seconds)
    if not pictures:
        raise ValueError("the video has no pictures")
    first, *more = [*pictures, *pictures[-2:0:-1]]
    out = io.BytesIO()
    first.save(
        out, "WEBP", save_all=True, append_images=more, duration=round(1000 / RATE), loop=0, quality=QUALITY, method=4
    )
    return out.getvalue()


def _pictures(video: bytes, seconds: float) -> list[Image.Image]:
    """Pictures from the first ``seconds``, ``RATE`` per second, at most ``WIDEST`` wide."""
    import av  # not at module level: the front imports this module

    with av.open(io.BytesIO(video), "r") as container:
        fps = float(container.streams.video[0].average_rate or RATE)
        step = max(1, round(fps / RATE))
        frames: Any = islice(container.decode(video=0), 0, round(seconds * fps), step)
        return [_small(frame.to_image()) for frame in frames]


def _small(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width <= WIDEST:
        return picture
    return picture.resize((WIDEST, round(height * WIDEST / width)), Image.Resampling.LANCZOS)


def main() -> int:
    os.nice(5)  # live viewers first
    sys.stdout.buffer.write(loop_of(sys.stdin.buffer.read()))
    return 0


if __name__ == "__main__":
    leave_signals_to_the_front()
    sys.exit(main())
