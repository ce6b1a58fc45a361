"""JPEG pictures for viewers that cannot decode video."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

QUALITY = 4  # FFmpeg's scale: 2 (best) to 31


class JpegEncoder:
    """Encodes (T, height, width, 3) uint8 RGB pictures as separate JPEGs."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        context = av.CodecContext.create("mjpeg", "w")
        context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
        context.time_base = Fraction(1, fps)
        context.color_range = ColorRange.JPEG
        context.options = {"qmin": str(QUALITY), "qmax": str(QUALITY), "threads": "1"}
        self._context = context
        self._pictures = 0

    def encode(self, pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> list[bytes]:
        """One JPEG per picture."""
        return [self._encode_one(picture) for picture in pictures]

    def _encode_one(self, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = rgb.reformat(format="yuvj420p", dst_color_range=ColorRange.JPEG)
        frame.pts = self._pictures
        self._pictures += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))
