"""Promise: a prompt that names a new thing redraws the view; everything out of view is remembered."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.camera import CameraControl
from model.spec import TEST_TINY
from model.stream.video_stream import Chunk, VideoStream
from model.weights import LoadedModel, random_model
from model.words.grammar import names_anew

BEFORE = "a meadow by day, a red mill on the left and a tree"
EVERYTHING = CacheConfig(policy="full", budget_latents=30, sink_latents=0, recent_latents=0, position_mode="relative")
PRUNED = dataclasses.replace(EVERYTHING, policy="pafu", budget_latents=2.0, recent_latents=1.0)


@pytest.mark.parametrize(
    ("after", "anew"),
    [
        (BEFORE, False),
        ("a snowy night, a tree and a crimson windmill on the left", False),
        ("a desert at sunset; the camera pans right", False),
        ("a meadow by day", False),
        ("", False),
        (BEFORE + ", a house", True),
        ("a red mill", False),
        ("a mill on the left", False),
        (BEFORE.replace("red", "blue"), True),
        (BEFORE.replace("left", "right"), True),
        ("a red mill with a white roof on the left", True),
    ],
)
def test_a_thing_is_named_anew_when_the_words_before_did_not_ask_for_it_like_that(after: str, anew: bool) -> None:
    assert names_anew(BEFORE, after) is anew


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(TEST_TINY, seed=0, dtype=torch.float32)


def away(session: VideoStream, place: float) -> None:
    session.set_camera(CameraControl(speed=0, cut_to=place))


def toured(model: LoadedModel, config: CacheConfig = EVERYTHING) -> tuple[VideoStream, list[Chunk]]:
    """A stream that has seen two places, two screens apart, and now views the second."""
    session = VideoStream(model, BEFORE, 5, config)
    chunks = [session.next_chunk()]
    away(session, 2)
    return session, [*chunks, session.next_chunk()]


def remembered(session: VideoStream) -> list[set[int]]:
    """Per layer, the chunks of which the cache holds tokens."""
    tokens = session.cache.chunk
    return [set((numbers // tokens).tolist()) for numbers in session.cache.retained_numbers()]


@pytest.mark.parametrize(
    ("prompt", "place", "held"),
    [
        (BEFORE + ", a blue tower", None, {0, 2}),
        (BEFORE + ", a blue tower", 0, {1, 2}),
        (BEFORE + ", a blue tower", 4, {0, 1, 2}),
        ("snow at night; the camera holds still", None, {0, 1, 2}),
    ],
    ids=["here", "where the camera goes at the same time", "at a place never seen", "nothing new"],
)
def test_only_what_the_new_words_are_said_of_is_forgotten(
    model: LoadedModel, prompt: str, place: float | None, held: set[int]
) -> None:
    session, _ = toured(model)
    session.set_prompt(prompt)
    if place is not None:
        away(session, place)
    session.next_chunk()
    session.cache.check_integrity()
    assert remembered(session) == [held] * TEST_TINY.num_layers


def test_half_of_a_view_is_forgotten_when_half_of_it_is_in_sight(model: LoadedModel) -> None:
    session, _ = toured(model)
    session.set_prompt("a blue tower")
    away(session, 2.5)
    session.next_chunk()
    columns = session.cache.retained_positions()[0][:, 2]
    chunk = session.cache.retained_numbers()[0] // session.cache.chunk
    edge = 2.5 * TEST_TINY.token_columns
    assert (columns[chunk == 1] < edge).all() and (chunk == 1).sum() == session.cache.chunk / 2


def test_a_model_whose_words_follow_no_grammar_forgets_nothing(model: LoadedModel) -> None:
    spec = dataclasses.replace(model.spec, redraws=False)
    session, _ = toured(dataclasses.replace(model, spec=spec))
    session.set_prompt("a blue tower")
    session.next_chunk()
    assert remembered(session) == [{0, 1, 2}] * spec.num_layers


def test_a_recalled_stream_and_a_restored_one_go_on_bit_for_bit(model: LoadedModel) -> None:
    session, chunks = toured(model, dataclasses.replace(PRUNED, policy="redundancy"))
    for prompt in ("a blue tower", "a blue tower", "a pink tree on the right"):
        session.set_prompt(prompt)
        chunks.append(session.next_chunk())
    recalled = VideoStream(model, BEFORE, 5, dataclasses.replace(PRUNED, policy="redundancy"))
    recalled.recall([chunk.past for chunk in chunks], 5, session.camera)
    restored = VideoStream.restore(model, session.snapshot())
    following = []
    for each in (session, recalled, restored):
        recalled.set_prompt("a pink tree on the right")
        away(each, 2)
        each.set_prompt("a green pine")
        following.append(each.next_chunk().latents)
    assert torch.equal(following[0], following[1]) and torch.equal(following[0], following[2])


def test_a_chunk_that_is_given_up_forgets_no_more_than_one_that_is_made(model: LoadedModel) -> None:
    (session, _), (undisturbed, _) = toured(model), toured(model)

    def stop() -> None:
        raise InterruptedError

    for each in (session, undisturbed):
        each.set_prompt("a blue tower")
    with pytest.raises(InterruptedError):
        session.next_chunk(stop)
    assert torch.equal(session.next_chunk().latents, undisturbed.next_chunk().latents)
    assert remembered(session) == remembered(undisturbed)
