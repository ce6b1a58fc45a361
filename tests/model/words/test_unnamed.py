"""Promise: what a prompt leaves open is chosen by the seed, told to the model, and kept for the whole stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.config import CacheConfig
from model.spec import TEST_TINY, spec_named
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, random_model
from model.words.grammar import GRAMMAR, Description, Thing, describe
from model.words.unnamed import completed, spoken
from model.words.vocabularies import told
from model.words.vocabulary import COLOURS, EXAMPLES, GROUNDS, KINDS, LIGHTS, PLACES, ROOFED

CACHE = CacheConfig(
    policy="value_novelty", budget_latents=6, sink_latents=0, recent_latents=1, position_mode="relative"
)
SPARSE = "a house on the left and a mill"
seeds = st.integers(0, 2**31)
colours = st.sampled_from(COLOURS) | st.none()
places = st.sampled_from(PLACES) | st.none()
things = st.builds(Thing, st.sampled_from(ROOFED), colours, colours, places) | st.builds(
    Thing, st.sampled_from([kind for kind in KINDS if kind not in ROOFED]), colours, place=places
)
settings = st.builds(Description, st.sampled_from(LIGHTS), st.sampled_from(GROUNDS), st.lists(things, max_size=5))


@given(settings)
def test_what_is_spoken_is_what_is_read(said: Description) -> None:
    placed = [thing for thing in said.things if thing.place]
    in_order = Description(said.light, said.ground, placed)
    assert describe(spoken(in_order)) == in_order


@given(settings, settings, seeds)
def test_a_completed_prompt_names_everything_and_stays_as_it_is(
    first: Description, then: Description, seed: int
) -> None:
    before = completed(spoken(first), None, seed)
    words = completed(spoken(then), before, seed)
    said = describe(words)
    assert said.light == then.light and said.ground == then.ground
    assert all(thing.colour and (thing.accent or thing.kind not in ROOFED) for thing in said.things)
    assert completed(spoken(then), words, seed) == words == completed(words, before, seed) == completed(words, None, 3)


@pytest.mark.parametrize("prompt", [*EXAMPLES, "", SPARSE, "three houses", "the camera pans right"])
def test_the_prompt_itself_is_never_contradicted(prompt: str) -> None:
    said, whole = describe(prompt), describe(completed(prompt, None, 7))
    assert whole.light and whole.ground and said.light in (None, whole.light) and said.ground in (None, whole.ground)
    assert len(whole.things) == len(said.things)
    for asked, got in zip(said.things, whole.things, strict=True):
        assert all(value in (None, getattr(got, name)) for name, value in vars(asked).items())


def test_seeds_choose_differently_and_a_roof_differs_from_its_walls() -> None:
    chosen = Counter(completed(SPARSE, None, seed) for seed in range(200))
    assert len(chosen) > 150
    lights = Counter(describe(words).light for words in chosen)
    assert set(lights) == set(LIGHTS) and min(lights.values()) > 25
    assert all(thing.colour != thing.accent for words in chosen for thing in describe(words).things)


def test_only_colors_that_hold_are_chosen() -> None:
    """Measured by model/distill/evaluation/steadiness.py: a white roof may turn yellow."""
    things = [
        each for seed in range(200) for each in describe(completed("a house, a tower, a mill", None, seed)).things
    ]
    assert {each.colour for each in things} == {"red", "yellow", "green", "blue", "white"}
    assert {each.accent for each in things} == {"red", "yellow", "green", "blue"}


def test_later_words_change_only_what_they_name() -> None:
    first = completed("a red house on the left and a mill on the right", None, 11)
    night = completed("a house and a mill at night", first, 11)
    assert describe(night).things == describe(first).things and describe(night).ground == describe(first).ground
    assert describe(night).light == "night"
    blue = describe(completed("a house and a blue mill", night, 11))
    assert blue.things[0] == describe(first).things[0] and blue.things[1].colour == "blue" and blue.light == "night"


def test_the_one_that_says_most_is_recognised_first() -> None:
    first = completed("a red house on the left and a blue house on the right", None, 1)
    later = describe(completed("a house and a red house", first, 1))
    assert [thing.colour for thing in later.things] == ["blue", "red"]


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        ("a mill", "another mill", 1),
        ("a white mill on the left", "a second mill", 1),
        ("a red house and a mill", "one more house", 2),
        ("a red house and a mill", "add a red house", 2),
        ("two houses", "another red house at night", 2),
        ("a house, a mill, a tree", "an additional tower", 3),
        ("a house and a mill", "a house and another mill", 2),
    ],
)
def test_another_thing_is_new_and_the_known_ones_stay(before: str, after: str, known: int) -> None:
    first = completed(before, None, 7)
    later = completed(after, first, 7)
    old, new = describe(first).things, describe(later).things
    assert len(new) == known + 1 and new[-1].kind in after
    assert [(each.kind, each.colour, each.accent) for each in new[:-1]] == [
        (each.kind, each.colour, each.accent) for each in old
    ]
    assert all(replace(new[-1], place=None) != replace(each, place=None) for each in old), "it differs"
    assert GRAMMAR.names_anew(first, later) and GRAMMAR.new_things(before, after) == [len(describe(after).things) - 1]
    assert completed(after, later, 7) == later, "the next chunk adds no third one"
    assert describe(completed(later, first, 7)).things == new


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        ("a mill", "another mill and another mill", 1),
        ("another mill", "another mill, another mill", 1),
        ("a mill and another mill", "another mill", 2),
        ("a house and another mill", "another mill and another mill", 2),
        ("a house, another house and another mill", "one more house and another mill", 3),
    ],
)
def test_every_other_thing_that_a_prompt_names_is_new(before: str, after: str, known: int) -> None:
    first = completed(before, None, 7)
    later = completed(after, first, 7)
    assert len(describe(later).things) == known + len(describe(after).things)
    assert completed(after, later, 7) == later, "the next chunk adds none"


def test_a_third_one_is_another_than_the_second() -> None:
    words = completed("a mill", None, 7)
    for prompt in ("a second mill", "a third mill"):
        words = completed(prompt, words, 7)
    assert len(describe(words).things) == 3 and len({each.place for each in describe(words).things}) == 3


@pytest.mark.parametrize("after", ["a house and another house", "the second house", "the other house at night"])
def test_a_second_one_that_is_known_is_not_new(after: str) -> None:
    first = completed("a red house and another house", None, 7)
    assert not GRAMMAR.names_anew(first, completed(after, first, 7))


def test_models_without_a_vocabulary_are_told_the_prompt() -> None:
    assert told(SPARSE, None, 3, spec_named("longlive")) == SPARSE


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(TEST_TINY, seed=0, dtype=torch.float32)


def test_a_stream_is_told_the_completed_words(model: LoadedModel) -> None:
    words = completed(SPARSE, None, 5)
    sparse, whole = (VideoStream(model, prompt, 5, CACHE).next_chunk() for prompt in (SPARSE, words))
    assert torch.equal(sparse.latents, whole.latents), "to the model both are the same"
    assert (sparse.stats.prompt, sparse.stats.told, sparse.past.prompt) == (SPARSE, words, words)


def test_a_restored_and_a_recalled_stream_keep_what_was_chosen_under_an_earlier_prompt(model: LoadedModel) -> None:
    stream = VideoStream(model, "a blue mill at night", 5, CACHE)
    stream.next_chunk()
    stream.set_prompt(later := "a mill and a tree")
    past = stream.next_chunk().past
    restored, recalled = VideoStream.restore(model, stream.snapshot()), VideoStream(model, later, 5, CACHE)
    recalled.recall([past], stream._state.index, stream.camera)  # the first chunk, which named the color, is forgotten
    words = [each.next_chunk().stats.told for each in (stream, restored, recalled)]
    assert words[0] == words[1] == words[2] and "blue mill" in words[0] and "night" in words[0]


def test_a_stream_that_begins_with_a_picture_keeps_the_light_and_the_ground_of_the_picture(model: LoadedModel) -> None:
    stream, recalled = VideoStream(model, SPARSE, 5, CACHE), VideoStream(model, SPARSE, 5, CACHE)
    stream.begin_with(torch.full((TEST_TINY.height, TEST_TINY.width, 3), 90, dtype=torch.uint8))
    past = [stream.next_chunk().past for _ in range(2)]
    recalled.recall(past, 2, stream.camera)
    words = "house left, mill middle"
    assert [chunk.prompt for chunk in past] == [words, words] and recalled.next_chunk().stats.told == words
    stream.set_prompt("a house and a pine at night")
    assert stream.next_chunk().stats.told.startswith("night, house left,"), "only what is new gets a color"
