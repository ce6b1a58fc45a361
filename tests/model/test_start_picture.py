"""Promise: a stream can begin with a picture, which is shown, is in the cache, and influences what follows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.codec.vae import from_pictures
from model.spec import TEST_WAN
from model.stream.stream_state import StreamError
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, load_model, random_model

CONFIG = CacheConfig.filled_in("sink_window", 6.0, None, None, 3)


@pytest.fixture(scope="module")
def mini() -> LoadedModel:
    return load_model("pafu-mini", dtype=torch.float32)


def picture_of(model: LoadedModel) -> torch.Tensor:
    """Of the model's own world."""
    stream = VideoStream(model, "a red house and a green tree", 3, CONFIG)
    stream.next_chunk()
    return torch.from_numpy(stream.next_chunk().pictures[-1])


def test_pafu_mini_goes_on_as_the_place_in_the_picture(mini: LoadedModel) -> None:
    picture = picture_of(mini)
    streams = [VideoStream(mini, "a red house and a green tree", 9, CONFIG) for _ in range(2)]
    streams[0].begin_with(picture)
    with_picture, without = ([stream.next_chunk() for _ in range(4)] for stream in streams)

    def far(chunk: torch.Tensor) -> float:
        return float((chunk.float() - picture.float()).abs().mean())

    shown = torch.from_numpy(with_picture[0].pictures)
    assert far(shown) < 8  # of 255: what the VAE loses
    later = [torch.from_numpy(chunks[-1].pictures) for chunks in (with_picture, without)]
    assert far(later[0]) < 0.5 * far(later[1])


@pytest.mark.parametrize("chunk_latents", [1, 3])
def test_the_first_chunk_of_a_wan_is_the_picture_written_by_a_clean_pass(chunk_latents: int) -> None:
    spec = dataclasses.replace(TEST_WAN, chunk_latents=chunk_latents)
    model = random_model(spec, seed=0, dtype=torch.float32)
    picture = torch.randint(0, 256, (spec.height, spec.width, 3), dtype=torch.uint8)
    stream, passes = VideoStream(model, "a cat", 1, CONFIG), []
    stream.begin_with(picture)
    first = stream.next_chunk(lambda: passes.append(1))
    assert len(passes) == 1 and len(first.pictures) == spec.pictures_in_chunk(0)
    expected = model.vae.encode_start(from_pictures(picture), spec.chunk_latents)
    assert torch.equal(first.latents, expected)
    told = VideoStream(model, "a cat", 1, CONFIG)
    told.recall([first.past], 1, stream.camera)
    assert (told.next_chunk().pictures == stream.next_chunk().pictures).all()


def test_a_stream_parked_before_its_first_chunk_still_begins_with_its_picture() -> None:
    model = random_model(TEST_WAN, seed=0, dtype=torch.float32)
    stream = VideoStream(model, "a cat", 1, CONFIG)
    stream.begin_with(torch.full((TEST_WAN.height, TEST_WAN.width, 3), 200, dtype=torch.uint8))
    restored = VideoStream.restore(model, stream.snapshot())
    assert (restored.next_chunk().pictures == stream.next_chunk().pictures).all()


def test_a_late_picture_and_one_of_another_size_are_refused() -> None:
    stream = VideoStream(random_model(TEST_WAN, seed=0, dtype=torch.float32), "a cat", 1, CONFIG)
    with pytest.raises(StreamError, match=r"the picture is \(8, 8, 3\), expected \(64, 96, 3\)"):
        stream.begin_with(torch.zeros(8, 8, 3, dtype=torch.uint8))
    stream.next_chunk()
    with pytest.raises(StreamError, match="has begun"):
        stream.begin_with(torch.zeros(64, 96, 3, dtype=torch.uint8))


def test_another_model_of_the_family_goes_on_from_the_last_latents() -> None:
    one, other = (random_model(TEST_WAN, seed=seed, dtype=torch.float32) for seed in (0, 1))
    other = dataclasses.replace(other, vae=one.vae)  # the family has one VAE
    stream, longer, unlike = (VideoStream(model, "a cat", 1, CONFIG) for model in (one, other, other))
    past = [stream.next_chunk().past for _ in range(2)]
    longer.recall(past, 2, stream.camera)
    chunk = longer.next_chunk()
    assert chunk.index == 2 and len(chunk.pictures) == 12
    for _ in range(2):
        unlike.next_chunk()
    assert not torch.equal(chunk.latents, unlike.next_chunk().latents), "it has seen what came before"
