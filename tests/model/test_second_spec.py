"""Promise: pafu-mini 2's spec streams with planes under a camera that pans and rises, and with its own vocabulary."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cache.config import CacheConfig
from model.camera import CameraControl, CameraLimits, CameraState, walk
from model.spec import PAFU_MINI, PAFU_MINI_2, spec_named
from model.stream.camera_path import CameraPath
from model.stream.stream_state import StreamError
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, random_model
from model.words.vocabularies import words_of

SPEC = dataclasses.replace(PAFU_MINI_2, dim=40, ffn_dim=80, num_heads=2, num_layers=2, width=256, height=128)
CACHE = CacheConfig(policy="sink_window", budget_latents=6, sink_latents=1, recent_latents=2, position_mode="relative")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return random_model(SPEC, seed=0, dtype=torch.float32)


def tour(stream: VideoStream) -> list[np.ndarray]:
    stream.set_camera(CameraControl(speed=8, rise=2))
    chunks = [stream.next_chunk() for _ in range(2)]
    stream.set_prompt("a foggy night at the sea, a red lighthouse on the left")
    stream.set_camera(CameraControl(cut_to=3))
    return [chunk.pictures for chunk in (*chunks, stream.next_chunk())]


def test_the_second_spec_is_known_by_name() -> None:
    assert spec_named("pafu-mini-2") is PAFU_MINI_2


def test_it_streams_under_a_camera_that_pans_rises_and_jumps(model: LoadedModel) -> None:
    pictures = tour(VideoStream(model, "a sunny meadow, a white mill", 1, CACHE))
    assert [chunk.shape for chunk in pictures] == [(12, SPEC.height, SPEC.width, 3)] * 3
    assert all(chunk.std() > 1 for chunk in pictures)


def test_a_stream_goes_on_from_a_snapshot_and_from_past_chunks_on_the_way_up(model: LoadedModel) -> None:
    stream = VideoStream(model, "a sunny meadow", 1, CACHE)
    stream.set_camera(CameraControl(speed=4, rise=3))
    first = stream.next_chunk()
    restored = VideoStream.restore(model, stream.snapshot())
    recalled = VideoStream(model, "a sunny meadow", 1, CACHE)
    recalled.recall([first.past], 1, first.camera)
    after = stream.next_chunk()
    for other in (restored.next_chunk(), recalled.next_chunk()):
        assert np.array_equal(other.pictures, after.pictures)


def test_after_a_jump_the_picture_waits_and_nothing_slides(model: LoadedModel) -> None:
    *_, jumped = tour(VideoStream(model, "a sunny meadow", 1, CACHE))
    assert all(np.array_equal(jumped[0], jumped[part]) for part in range(1, SPEC.temporal_stride))


def test_positions_rise_with_the_camera() -> None:
    up = CameraState(height=32, rise=2, rise_target=2, speed=16, target=16)
    at_rest, moving = (CameraPath.of_chunk(PAFU_MINI_2, state) for state in (CameraState(), up))
    moved = moving.positions(0) - at_rest.positions(0)
    assert moved[0, 1] == pytest.approx(-(32 + 8) / PAFU_MINI_2.pixels_per_row)
    assert moved[0, 2] == pytest.approx(64 / PAFU_MINI_2.pixels_per_column)
    assert moving.control()[0, 0].tolist() == [0.5, -2 / 32, 1, 0]  # type: ignore[index]
    assert moving.motions()[0] == (64.0, -8.0)  # type: ignore[index]


def test_heights_end_where_the_world_was_learned() -> None:
    limits = CameraLimits(lowest=-10, highest=6)
    up, _ = walk(CameraState().steered(CameraControl(rise=4), 512), 9, 4, limits)
    down, _ = walk(up.steered(CameraControl(rise=-3), 512), 9, 4, limits)
    assert limits.lowest <= down.height < -6 and 2 < up.height <= limits.highest and down.rise == 0


def test_a_state_crosses_a_line_and_comes_back_and_an_older_one_is_understood() -> None:
    state = CameraState(5, 4, 8, 12, 2, 3, jumped=True)
    assert CameraState.of(state.numbers) == state and CameraState.of((5, 4, 8)) == CameraState(5, 4, 8)


def test_a_camera_that_only_pans_refuses_to_rise() -> None:
    tiny = dataclasses.replace(SPEC, camera=PAFU_MINI.camera)
    stream = VideoStream(random_model(tiny, 0, dtype=torch.float32), "snow", 1, CACHE)
    with pytest.raises(StreamError, match="cannot rise"):
        stream.set_camera(CameraControl(rise=1))


def test_words_belong_to_the_text_encoder_of_the_spec() -> None:
    first, second = words_of(PAFU_MINI), words_of(PAFU_MINI_2)
    assert first is not None and second is not None and words_of(spec_named("wan2.1-1.3b")) is None
    prompt = "a red lighthouse in a drizzle"
    assert first.grammar.lexicon.unknown(prompt) == ["drizzle"] and not second.grammar.lexicon.unknown(prompt)
