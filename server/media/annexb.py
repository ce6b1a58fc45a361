"""Repackage an m4s fragment as H.264 access units with start codes, for WebCodecs.

The front does this for viewers who request it, without a codec library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

START_CODE = b"\0\0\0\1"
IDR = 5  # NAL unit type of a key frame's slices


class BoxError(ValueError):
    """The bytes are not MP4 boxes from our muxer."""


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and contents of each box. Raises BoxError."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8 or at + size > len(data):
            raise BoxError(f"a box at byte {at} claims {size} bytes of {len(data)}")
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def child(data: bytes, *path: bytes) -> bytes:
    """Contents of the box at ``path``, taking the first of each type. Raises BoxError."""
    for kind in path:
        found = next((contents for name, contents in boxes(data) if name == kind), None)
        if found is None:
            raise BoxError(f"no box {kind.decode()} in {len(data)} bytes")
        data = found
    return data


def parameter_sets(init: bytes) -> bytes:
    """SPS and PPS of an init segment (ftyp, moov), with start codes."""
    stsd = child(init, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    avcc = child(child(stsd[8:], b"avc1")[78:], b"avcC")  # skip the fields of the visual sample entry
    sps_size = int.from_bytes(avcc[6:8], "big")
    pps_at = 8 + sps_size + 1
    pps_size = int.from_bytes(avcc[pps_at : pps_at + 2], "big")
    return START_CODE + avcc[8 : 8 + sps_size] + START_CODE + avcc[pps_at + 2 : pps_at + 2 + pps_size]


def access_units(fragment: bytes, parameters: bytes) -> list[bytes]:
    """One access unit per picture of a fragment (moof, mdat); key frames start with ``parameters``."""
    trun = child(fragment, b"moof", b"traf", b"trun")
    count = struct.unpack(">I", trun[4:8])[0]
    sizes = [struct.unpack(">I", trun[12 * n + 16 : 12 * n + 20])[0] for n in range(count)]
    samples, units = child(fragment, b"mdat"), []
    for size in sizes:
        sample, samples = samples[:size], samples[size:]
        units.append(_with_start_codes(sample, parameters))
    return units


def _with_start_codes(sample: bytes, parameters: bytes) -> bytes:
    parts, key = [], False
    while sample:
        size = int.from_bytes(sample[:4], "big")
        unit, sample = sample[4 : 4 + size], sample[4 + size :]
        key = key or unit[0] & 31 == IDR
        parts.append(START_CODE + unit)
    return (parameters if key else b"") + b"".join(parts)
