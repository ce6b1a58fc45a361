"""Convert a finished video to another model's picture size and rate, with its last picture as PNG.

Like ``assemble``, it runs as a separate process (``python -m server.jobs.carry``), since the front imports no codec.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps

from server.jobs import child
from server.jobs.files import open_files
from server.jobs.job import CarryOrder
from server.media.encoder import H264Encoder
from server.media.fmp4 import FragmentMuxer

Picture = np.ndarray[Any, np.dtype[np.uint8]]


def carry(order: CarryOrder) -> bytes:
    """Write the converted video as fragments, as a worker would; returns its last picture as PNG.

    Raises FilesUnavailable.
    """
    files = open_files(order.files, Path(order.data_dir))
    encoder = H264Encoder(order.width, order.height, order.fps)
    muxer = FragmentMuxer(order.width, order.height, order.fps, encoder.avcc)
    fragments, last = [muxer.init_segment], b""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as video:
        for piece in files.chunks(order.video, 0, files.size(order.video)):
            video.write(piece)
        video.flush()
        source = _pictures(video.name, order)
        while pictures := list(islice(source, order.fps)):
            fragments.append(muxer.fragment(encoder.encode(np.stack(pictures))))
            last = _png(pictures[-1])
    files.write(order.made, b"".join(fragments))
    return last


def _pictures(path: str, order: CarryOrder) -> Iterator[Picture]:
    """Pictures (H, W, 3) at the new rate, scaled and center-cropped to the new size."""
    made, size = 0, (order.width, order.height)
    with av.open(path) as container:
        for place, frame in enumerate(container.decode(video=0)):
            while made < order.pictures and made * order.old_fps // order.fps == place:
                picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
                yield np.asarray(ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
                made += 1


def _png(picture: Picture) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(child.run(CarryOrder, carry))
