"""Promise: the grammar assigns words to the right things, and the transformer receives them."""

from __future__ import annotations

import pytest
import torch

from model.spec import PAFU_MINI
from model.words.grammar import Description, Thing, describe
from model.words.text import SYMBOLS, SYMBOLS_PER_SLOT, TextEncoder, phrase_ids
from model.words.vocabulary import COLOURS, EXAMPLES, KINDS, LEXICON, PLACES, ROOFED

HOUSE = Thing("house", "red", "blue", "left")


@pytest.mark.parametrize(
    "prompt",
    [
        "a red house with a blue roof on the left",
        "on the left a red house with a blue roof",
        "on the left, a blue roofed red house",
        "a blue-roofed red house, left",
        "A crimson COTTAGE with an azure roof on the left; the camera pans right",
        "a house, red, on the left with a navy top",
    ],
)
def test_colours_roofs_and_places_go_to_the_thing_they_belong_to(prompt):
    assert describe(prompt).things == [HOUSE]


@pytest.mark.parametrize(
    "prompt",
    [
        "a red house with a blue roof on the left and a white mill on the right",
        "on the left a red house with a blue roof, on the right a white mill",
        "a red house with a blue roof on the left. On the right there is a white mill",
    ],
)
def test_two_things_do_not_lend_each_other_colours_or_places(prompt):
    assert describe(prompt).things == [HOUSE, Thing("mill", "white", None, "right")]


def test_a_colour_of_ground_or_light_is_nobody_elses():
    assert describe("a green meadow in golden morning, a house") == Description("morning", "meadow", [Thing("house")])


def test_a_prompt_may_say_nothing_that_is_known():
    assert describe("zeppelins!") == Description() == describe("")
    assert LEXICON.unknown("a crimson zeppelin over a sandy beach") == ["zeppelin"]


def test_every_example_is_understood_whole():
    for example in EXAMPLES:
        said = describe(example)
        assert LEXICON.unknown(example) == [] and said.light and said.ground
        assert all(thing.colour and thing.place for thing in said.things)


def test_a_slot_tells_apart_whatever_phrases_can_say():
    ids = [
        tuple(phrase_ids(f"a {colour} {kind}{roof} {place}", 8)[1].tolist())
        for colour in COLOURS
        for kind in KINDS
        for roof in ["", *(f" with a {accent} roof" for accent in COLOURS if kind in ROOFED)]
        for place in PLACES
    ]
    assert len(set(ids)) == len(ids)


def test_things_beyond_the_last_slot_are_left_out_and_the_shape_stays():
    ids = phrase_ids("night, " + " and ".join(["a red house"] * 20), PAFU_MINI.text_len)
    assert ids.shape == (PAFU_MINI.text_len, SYMBOLS_PER_SLOT)
    assert ids[0, 0] == SYMBOLS["light", "night"] and (ids[1:, 0] == SYMBOLS["kind", "house"]).all()


def test_the_order_of_words_in_a_phrase_does_not_matter_to_the_model():
    torch.manual_seed(0)
    encoder = TextEncoder(PAFU_MINI)
    one, other = encoder.encode("a red house on the left"), encoder.encode("on the left stands a scarlet hut")
    assert torch.equal(one, other) and one.shape == (PAFU_MINI.text_len, PAFU_MINI.text_dim)
