"""Assemble a job's chunks into a seekable MP4, a thumbnail, a sprite sheet and a short loop.

The front imports no codec, so this runs as a separate process (``python -m server.jobs.assemble``), with the request as
JSON on stdin and the results as JSON on stdout.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np

from server.jobs import child
from server.jobs.files import open_files
from server.jobs.job import AssemblyOrder, Results
from server.media import faststart
from server.media.loop import loop_of

SHEET_PICTURES, SHEET_COLUMNS = 16, 4
Picture = np.ndarray[Any, np.dtype[np.uint8]]


def assemble(order: AssemblyOrder) -> Results:
    """Write the result files. Raises FilesUnavailable, or ValueError if the chunks have too few pictures."""
    files = open_files(order.files, Path(order.data_dir))
    video = cut(b"".join(files.read(name) for name in order.media), order.pictures, order.fps, order.title)
    pictures = sample(video, order.pictures)
    made = {
        "video": (f"{order.prefix}video.mp4", video),
        "thumbnail": (f"{order.prefix}thumbnail.webp", still(pictures[0], "libwebp", "yuv420p")),
        "spritesheet": (f"{order.prefix}spritesheet.jpg", still(sheet(pictures), "mjpeg", "yuvj420p")),
        "loop": (f"{order.prefix}loop.webp", loop_of(video)),
    }
    for name, data in made.values():
        files.write(name, data)
    # remove chunks that earlier lease holders left
    kept = [*order.media, *order.beside]
    files.keep_only(order.title, {*kept, *(name for name, _ in made.values())})
    nbytes = sum(len(data) for _, data in made.values()) + sum(files.size(name) for name in kept)
    return Results(nbytes=nbytes, **{kind: name for kind, (name, _) in made.items()})


def cut(fragments: bytes, pictures: int, fps: int, title: str) -> bytes:
    """The first ``pictures`` pictures of fragmented MP4 as a titled plain MP4, index first. Raises ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        number = faststart.copy(io.BytesIO(fragments), path, fps, pictures, title)
        if number < pictures:
            raise ValueError(f"the chunks have {number} pictures, {pictures} are needed")
        return path.read_bytes()


def sample(video: bytes, pictures: int) -> list[Picture]:
    """Up to SHEET_PICTURES pictures (H, W, 3), evenly spaced over the video from the first on."""
    count = min(SHEET_PICTURES, pictures)
    wanted = {index * pictures // count for index in range(count)}
    with av.open(io.BytesIO(video), "r") as container:
        frames: Any = enumerate(container.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for index, frame in frames if index in wanted]


def sheet(pictures: list[Picture]) -> Picture:
    """A contact sheet of the pictures, row by row; empty cells are black."""
    height, width, _ = pictures[0].shape
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    page = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        page[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return page


def still(picture: Picture, codec: str, pixels: str) -> bytes:
    """Encode one picture (H, W, 3)."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, pixels
    context.time_base = Fraction(1, 1)
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


if __name__ == "__main__":
    sys.exit(child.run(AssemblyOrder, lambda order: msgspec.json.encode(assemble(order))))
