"""Fragmented MP4 for live video: ``ftyp+moov`` once, then one ``moof+mdat`` per chunk.

PyAV's muxer cannot flush a fragment on demand; it emits it a frame or a chunk late. This one supports only a single
H.264 track without B-frames (ISO 14496-12): decode order is display order, so there are no composition offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from server.media.encoder import Sample

TRACK = 1
TICKS = 1000  # per picture, so that every integer frame rate is exact
SYNC, NON_SYNC = 0x02000000, 0x01010000  # sample flags: depends on nothing / depends on others, not a sync sample
UNITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def box(kind: bytes, *parts: bytes) -> bytes:
    """An MP4 box: size, type, contents."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """An MP4 box that starts with a version and 24 bits of flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


class FragmentMuxer:
    """Muxes one track; decode times are continuous across fragments."""

    def __init__(self, width: int, height: int, fps: int, avcc: bytes) -> None:
        self.timescale = fps * TICKS
        self._init = _ftyp() + _moov(width, height, self.timescale, avcc)
        self._sequence = 0
        self._decode_time = 0

    @property
    def init_segment(self) -> bytes:
        """ftyp and moov, which a player needs before any fragment."""
        return self._init

    def continue_after(self, fragments: int, pictures: int) -> None:
        """Continue a stream after this many fragments and pictures."""
        self._sequence, self._decode_time = fragments, TICKS * pictures

    def fragment(self, samples: Sequence[Sample]) -> bytes:
        """``moof+mdat`` for these samples. Raises ValueError if there are none."""
        if not samples:
            raise ValueError("a fragment needs at least one sample")
        self._sequence += 1
        size = len(_moof(self._sequence, self._decode_time, samples, 0))
        moof = _moof(self._sequence, self._decode_time, samples, size + 8)
        self._decode_time += TICKS * len(samples)
        return moof + box(b"mdat", *(sample.data for sample in samples))


def _moof(sequence: int, decode_time: int, samples: Sequence[Sample], data_offset: int) -> bytes:
    tfhd = full_box(b"tfhd", 0, 0x020000, struct.pack(">I", TRACK))  # default-base-is-moof
    tfdt = full_box(b"tfdt", 1, 0, struct.pack(">Q", decode_time))
    rows = b"".join(struct.pack(">III", TICKS, len(s.data), SYNC if s.keyframe else NON_SYNC) for s in samples)
    # data offset, then duration, size and flags of each sample
    trun = full_box(b"trun", 0, 0x000701, struct.pack(">Ii", len(samples), data_offset), rows)
    mfhd = full_box(b"mfhd", 0, 0, struct.pack(">I", sequence))
    return box(b"moof", mfhd, box(b"traf", tfhd, tfdt, trun))


def _ftyp() -> bytes:
    return box(b"ftyp", b"iso6", struct.pack(">I", 1), b"iso6", b"avc1", b"mp41")


def _moov(width: int, height: int, timescale: int, avcc: bytes) -> bytes:
    trex = full_box(b"trex", 0, 0, struct.pack(">5I", TRACK, 1, TICKS, 0, NON_SYNC))
    next_track = struct.pack(">I", TRACK + 1)
    mvhd = full_box(
        b"mvhd", 0, 0, struct.pack(">5IH10x", 0, 0, timescale, 0, 0x10000, 0x100), UNITY, bytes(24), next_track
    )
    return box(b"moov", mvhd, _trak(width, height, timescale, avcc), box(b"mvex", trex))


def _trak(width: int, height: int, timescale: int, avcc: bytes) -> bytes:
    enabled = 0x7  # enabled, in movie, in preview
    size = struct.pack(">II", width << 16, height << 16)
    tkhd = full_box(b"tkhd", 0, enabled, struct.pack(">5I", 0, 0, TRACK, 0, 0), bytes(16), UNITY, size)
    mdhd = full_box(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, timescale, 0, 0x55C4, 0))  # language: und
    hdlr = full_box(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"pafu\0")
    return box(b"trak", tkhd, box(b"mdia", mdhd, hdlr, _minf(width, height, avcc)))


def _minf(width: int, height: int, avcc: bytes) -> bytes:
    url = full_box(b"url ", 0, 1)  # the data is in this file
    dinf = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), url))
    return box(b"minf", full_box(b"vmhd", 0, 1, bytes(8)), dinf, _stbl(width, height, avcc))


def _stbl(width: int, height: int, avcc: bytes) -> bytes:
    entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, height)
    entry += struct.pack(">IIIH", 0x480000, 0x480000, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    stsd = full_box(b"stsd", 0, 0, struct.pack(">I", 1), box(b"avc1", entry, box(b"avcC", avcc)))
    empty = [full_box(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc", b"stco")]
    return box(b"stbl", stsd, *empty, full_box(b"stsz", 0, 0, bytes(8)))
