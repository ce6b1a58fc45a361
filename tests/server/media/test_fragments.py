"""Promise: one playable fragment per chunk, at once: IDR first, no B-frames, continuous timestamps."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest

from server.media.encoder import EncoderError, H264Encoder, avcc, nal_units, to_lengths
from server.media.fmp4 import FragmentMuxer

WIDTH, HEIGHT = 64, 48


def chunk(pictures: int, start: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A bar that moves over a coloured ground."""
    made = np.zeros((pictures, height, width, 3), np.uint8)
    made[...] = (40, 90, 160)
    for index in range(pictures):
        left = 2 * (start + index) % (width - 8)
        made[index, :, left : left + 8] = (230, 60, 50)
    return made


def film(lengths: list[int], fps: int = 16) -> tuple[np.ndarray, list[bytes]]:
    """The pictures and fragments of a stream with chunks of these lengths; the first includes the init segment."""
    encoder = H264Encoder(WIDTH, HEIGHT, fps)
    muxer = FragmentMuxer(WIDTH, HEIGHT, fps, encoder.avcc)
    chunks = [chunk(length, sum(lengths[:at])) for at, length in enumerate(lengths)]
    fragments = [muxer.fragment(encoder.encode(pictures)) for pictures in chunks]
    return np.concatenate(chunks), [muxer.init_segment + fragments[0], *fragments[1:]]


def frames(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("fps", [15, 16, 24, 25, 30])
def test_every_picture_comes_back_once_at_its_time(fps) -> None:
    source, fragments = film([12, 12, 5], fps)
    decoded = frames(b"".join(fragments))
    assert [frame.pts * frame.time_base * fps for frame in decoded] == list(range(29))
    got = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(int)
    assert np.abs(got - source).mean() < 4  # 4:2:0 blurs the bar's edges, colors stay


def test_each_prefix_of_fragments_holds_all_pictures_that_went_in() -> None:
    """Nothing is held back: a viewer has received everything that was encoded."""
    _, fragments = film([12, 12, 12])
    for count in (1, 2, 3):
        assert len(frames(b"".join(fragments[:count]))) == 12 * count


def test_chunks_begin_with_an_idr_and_have_no_b_frames() -> None:
    _, fragments = film([12, 3, 12])
    decoded = frames(b"".join(fragments))
    assert [at for at, frame in enumerate(decoded) if frame.key_frame] == [0, 12, 15]
    kinds = {frame.pict_type for frame in decoded}
    assert kinds == {av.video.frame.PictureType.I, av.video.frame.PictureType.P}


def test_the_first_picture_of_a_chunk_is_an_idr_and_not_merely_intra() -> None:
    """A decoder that starts there needs no earlier data: NAL type 5, marked as a sync sample."""
    encoder = H264Encoder(WIDTH, HEIGHT, 16)
    for _ in range(3):
        samples = encoder.encode(chunk(4))
        kinds = [{unit[0] & 31 for unit in units(sample.data)} & {1, 5} for sample in samples]
        assert kinds == [{5}, {1}, {1}, {1}]
        assert [sample.keyframe for sample in samples] == [True, False, False, False]


def units(sample: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(sample):
        size = int.from_bytes(sample[at : at + 4], "big")
        found.append(sample[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def test_any_fragment_behind_the_init_segment_can_be_decoded_alone() -> None:
    _, fragments = film([12, 12])
    init = fragments[0][: fragments[0].index(b"moof") - 4]
    assert len(frames(init + fragments[1])) == 12


def test_the_decoder_is_told_not_to_wait_for_reordered_pictures() -> None:
    """Without max_num_reorder_frames=0 in the VUI some browsers hold pictures back."""
    _, fragments = film([12])
    with av.open(io.BytesIO(fragments[0])) as container:
        assert container.streams.video[0].codec_context.has_b_frames == 0


def test_the_codec_string_is_what_the_sps_says() -> None:
    encoder = H264Encoder(WIDTH, HEIGHT, 16)
    _, fragments = film([1])
    with av.open(io.BytesIO(fragments[0])) as container:
        record = container.streams.video[0].codec_context.extradata
    assert encoder.codec == f"avc1.{record[1]:02x}{record[2]:02x}{record[3]:02x}"


def test_every_box_fills_its_size_and_the_sample_table_fits_the_data() -> None:
    _, fragments = film([12])
    sizes = dict(boxes(fragments[0]))
    assert list(sizes) == [b"ftyp", b"moov", b"moof", b"mdat"]
    moof = fragments[0].index(b"moof") - 4
    trun = fragments[0].index(b"trun")
    count, offset = struct.unpack_from(">Ii", fragments[0], trun + 8)
    rows = [struct.unpack_from(">III", fragments[0], trun + 16 + 12 * at) for at in range(count)]
    assert count == 12 and moof + offset + sum(row[1] for row in rows) == len(fragments[0])


def boxes(data: bytes) -> list[tuple[bytes, int]]:
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, size))
        at += size
    assert at == len(data)
    return found


def test_the_same_pictures_give_the_same_bytes() -> None:
    assert film([12, 12])[1] == film([12, 12])[1]


def test_a_fragment_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        FragmentMuxer(WIDTH, HEIGHT, 16, b"").fragment([])


@pytest.mark.parametrize(
    "pictures",
    [chunk(2)[:, :, :-2], chunk(2).astype(np.float32), chunk(2)[0], chunk(2)[..., :1]],
    ids=["narrow", "float", "one picture", "grey"],
)
def test_pictures_of_another_shape_are_refused_with_both_shapes(pictures) -> None:
    with pytest.raises(EncoderError, match=r"48, 64, 3.*got"):
        H264Encoder(WIDTH, HEIGHT, 16).encode(pictures)


def test_odd_sides_are_refused() -> None:
    with pytest.raises(EncoderError, match="63x48"):
        H264Encoder(63, 48, 16)


def test_start_codes_of_both_lengths_are_found_and_replaced_by_lengths() -> None:
    stream = b"\0\0\0\1\x67abc" + b"\0\0\1\x68d" + b"\0\0\0\1\x65\0\0\3\1ef\0"
    assert nal_units(stream) == [b"\x67abc", b"\x68d", b"\x65\0\0\3\1ef\0"]
    assert to_lengths(b"\0\0\1\x68d\0\0\0\1\x65") == b"\0\0\0\2\x68d\0\0\0\1\x65"


def test_an_encoder_without_parameter_sets_is_refused() -> None:
    with pytest.raises(EncoderError, match="SPS"):
        avcc(b"\0\0\1\x68d")
