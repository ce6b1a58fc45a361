"""Promise: a new prompt also affects what is remembered: the newest chunks are rewritten under it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.spec import TEST_TINY
from model.stream.video_stream import Chunk, VideoStream
from model.weights import LoadedModel, random_model

AGAIN = 2
CONFIG = CacheConfig(policy="pafu", budget_latents=6, sink_latents=0, recent_latents=2, position_mode="relative")
EVERYTHING = dataclasses.replace(CONFIG, policy="full", budget_latents=21)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A model whose only input is its prompt, as Wan."""
    spec = dataclasses.replace(TEST_TINY, camera=None, control_dim=0, redraws=False, recache_chunks=AGAIN)
    return random_model(spec, seed=0, dtype=torch.float32)


def stream(model: LoadedModel, config: CacheConfig = CONFIG, again: int = AGAIN) -> VideoStream:
    spec = dataclasses.replace(model.spec, recache_chunks=again)
    return VideoStream(dataclasses.replace(model, spec=spec), "a red house", 5, config)


def changing(session: VideoStream) -> list[Chunk]:
    chunks = []
    for prompt in ("a red house", "a red house", "a blue tree", "a blue tree", "a mill at night"):
        session.set_prompt(prompt)
        chunks.append(session.next_chunk())
    return chunks


def same_cache(ours: VideoStream, theirs: VideoStream) -> bool:
    layers = range(ours.cache.layers)
    pairs = [zip(ours.cache.committed(layer), theirs.cache.committed(layer), strict=True) for layer in layers]
    return all(torch.equal(one, two) for pair in pairs for one, two in pair)


def test_the_newest_chunks_are_remembered_as_if_made_under_the_new_words(model: LoadedModel) -> None:
    session, written = stream(model, EVERYTHING), stream(model, EVERYTHING, again=0)
    past = [session.next_chunk().past for _ in range(3)]
    session.set_prompt("a blue tree")
    past.append(session.next_chunk().past)
    under = [past[0].prompt, *[past[-1].prompt] * 3]
    told = [dataclasses.replace(each, prompt=prompt) for each, prompt in zip(past, under, strict=True)]
    written.recall(told, 4, session.camera)
    for layer in range(session.cache.layers):  # one pass over two chunks rounds otherwise than a pass over each
        for ours, theirs in zip(session.cache.committed(layer), written.cache.committed(layer), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_all_of_them_are_written_in_one_pass(model: LoadedModel) -> None:
    session, passes = stream(model), []
    for _ in range(3):
        session.next_chunk()
    session.set_prompt("a blue tree")
    session.next_chunk(lambda: passes.append(1))
    assert len(passes) == 1 + len(model.spec.timesteps) + 1


def test_without_it_they_stay_as_they_were(model: LoadedModel) -> None:
    session, written = stream(model, EVERYTHING, again=0), stream(model, EVERYTHING, again=0)
    past = [chunk.past for chunk in changing(session)]
    written.recall(past, 5, session.camera)
    assert same_cache(session, written)
    assert not same_cache(session, _after(changing, stream(model, EVERYTHING)))


def test_the_same_words_again_cost_nothing(model: LoadedModel) -> None:
    session, passes = stream(model), []
    session.next_chunk()
    session.set_prompt("a blue tree")
    session.set_prompt("a red house")
    session.next_chunk(lambda: passes.append(1))
    assert len(passes) == len(model.spec.timesteps) + 1


def test_a_recalled_stream_and_a_restored_one_go_on_bit_for_bit(model: LoadedModel) -> None:
    session, recalled = stream(model), stream(model)
    past = [chunk.past for chunk in changing(session)]
    recalled.recall(past, 5, session.camera)
    restored = VideoStream.restore(session._model, session.snapshot())
    following = []
    for each in (session, recalled, restored):
        each.set_prompt("snow")
        following.append(each.next_chunk().latents)
        each.cache.check_integrity()
    assert torch.equal(following[0], following[1]) and torch.equal(following[0], following[2])


@pytest.mark.parametrize("passes", range(4))
def test_a_chunk_that_is_given_up_leaves_nothing_half_written(model: LoadedModel, passes: int) -> None:
    session, undisturbed = stream(model), stream(model)
    left = passes

    def stop() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise InterruptedError

    for each in (session, undisturbed):
        for _ in range(3):
            each.next_chunk()
        each.set_prompt("a blue tree")
    with pytest.raises(InterruptedError):
        session.next_chunk(stop)
    if passes < 1:  # and what is asked for meanwhile is another thing
        session.set_prompt("a red house")
        undisturbed.set_prompt("a red house")
        undisturbed._state.written_under = None  # it is written again, under what it was written under before
    assert torch.equal(session.next_chunk().latents, undisturbed.next_chunk().latents)


def _after(do: object, session: VideoStream) -> VideoStream:
    do(session)  # type: ignore[operator]
    return session
