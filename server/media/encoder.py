"""H.264 for one live session: every chunk starts with an IDR picture, no B-frames, timestamps never jump."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

# One thread: the model owns the cores, and the output must not depend on their number.
X264 = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "crf": "18",
    "forced-idr": "1",
    "x264-params": "scenecut=0:keyint=infinite:bframes=0:open-gop=0:threads=1",
}


class EncoderError(ValueError):
    """The pictures do not fit the encoder, or the encoder is not available."""


@dataclass(frozen=True)
class Sample:
    """One coded picture: NAL units with 4-byte lengths, as MP4 stores them."""

    data: bytes
    keyframe: bool


class H264Encoder:
    """Encodes chunks of (T, height, width, 3) uint8 RGB pictures at a constant rate."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        if width % 2 or height % 2:
            raise EncoderError(f"4:2:0 pictures need even sides, got {width}x{height}")
        self.width, self.height, self.fps = width, height, fps
        self._pictures = 0
        self._reformatter = VideoReformatter()  # reused: it caches color conversion tables
        self._context = _open(width, height, fps)
        self.avcc = avcc(cast(bytes, self._context.extradata))

    @property
    def codec(self) -> str:
        """The RFC 6381 codec string, from the SPS: profile, constraints, level."""
        return "avc1." + self.avcc[1:4].hex()

    def encode(self, pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Sample]:
        """Encode T pictures to T samples, the first an IDR. Raises EncoderError for a wrong shape or dtype."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (self.height, self.width, 3):
            wanted = f"(T, {self.height}, {self.width}, 3) uint8"
            raise EncoderError(f"pictures must be {wanted}, got {pictures.shape} {pictures.dtype}")
        samples = [self._encode_one(picture, first=index == 0) for index, picture in enumerate(pictures)]
        return samples

    def _encode_one(self, picture: np.ndarray[Any, np.dtype[np.uint8]], first: bool) -> Sample:
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = self._reformatter.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = self._pictures
        frame.time_base = Fraction(1, self.fps)
        frame.pict_type = PictureType.I if first else PictureType.NONE
        self._pictures += 1
        packets = self._context.encode(frame)
        if len(packets) != 1:
            raise EncoderError(f"the encoder buffered pictures: {len(packets)} packets for one picture")
        return Sample(to_lengths(bytes(packets[0])), bool(packets[0].is_keyframe))


def _open(width: int, height: int, fps: int) -> VideoCodecContext:
    try:
        context = av.CodecContext.create("libx264", "w")
    except av.error.FFmpegError as error:
        raise EncoderError(f"this PyAV has no libx264 encoder: {error}") from error
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
    context.max_b_frames = 0
    context.gop_size = 2**30  # IDRs only where we request them
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.colorspace = Colorspace.ITU709
    context.options = X264
    context.flags |= av.codec.context.Flags.global_header  # SPS and PPS are known before the first picture
    context.open()
    return context


def nal_units(annex_b: bytes) -> list[bytes]:
    """Split a byte stream with start codes (00 00 01 or 00 00 00 01) into NAL units."""
    units = []
    start = annex_b.find(b"\0\0\1")
    while start >= 0:
        following = annex_b.find(b"\0\0\1", start + 3)
        unit = annex_b[start + 3 : following if following >= 0 else len(annex_b)]
        units.append(unit.rstrip(b"\0") if following >= 0 else unit)
        start = following
    return units


def to_lengths(annex_b: bytes) -> bytes:
    """Replace start codes by 4-byte lengths (ISO 14496-15)."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in nal_units(annex_b))


def avcc(extradata: bytes) -> bytes:
    """The AVCDecoderConfigurationRecord (ISO 14496-15, 5.3.3.1) for an encoder's SPS and PPS. Raises EncoderError."""
    units = nal_units(extradata)
    sps = [unit for unit in units if unit[0] & 31 == 7]
    pps = [unit for unit in units if unit[0] & 31 == 8]
    if len(sps) != 1 or len(pps) != 1:
        raise EncoderError(f"expected one SPS and one PPS, got {len(sps)} and {len(pps)}")
    head = bytes((1, *sps[0][1:4], 0xFF, 0xE1))  # 4-byte lengths, one SPS
    return head + _sized(sps[0]) + b"\1" + _sized(pps[0])


def _sized(unit: bytes) -> bytes:
    return len(unit).to_bytes(2, "big") + unit
