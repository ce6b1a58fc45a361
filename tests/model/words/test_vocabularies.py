"""Promise: pafu-mini's vocabulary: what is understood, what is refused by name, and the warnings."""

from __future__ import annotations

import pytest
import torch

from model.spec import PAFU_MINI, spec_named
from model.words.grammar import Thing, arranged, describe
from model.words.text import arranged_ids, phrase_ids
from model.words.vocabularies import not_in_sight, unknown_words, warnings
from model.words.vocabulary import CANONICAL, EXAMPLES, LEXICON


def told(prompt: str) -> list[str]:
    return warnings(prompt, PAFU_MINI)


@pytest.mark.parametrize("prompt", [*EXAMPLES, "", "two red houses", "please show a mill and a tree"])
def test_nothing_is_said_of_what_is_drawn(prompt: str) -> None:
    assert told(prompt) == []


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        *(("huose", "house"), ("widnmill", "windmill"), ("purpel", "purple"), ("ouse", "house"), ("h0use", "house")),
        *(
            ("rigth", "right"),
            ("medow", "meadow"),
            ("tow", "two"),
            ("redhouse", "red house"),
            ("pinetree", "pine tree"),
        ),
    ],
)
def test_a_slip_suggests_the_word_that_was_meant(slip: str, meant: str) -> None:
    assert told(f"a red {slip} at night") == [f"the model does not know '{slip}'; did you mean '{meant}'?"]


@pytest.mark.parametrize("word", ["brainy", "free", "tight", "does", "submarine", "café", "3d"])
def test_nothing_is_suggested_for_another_word(word: str) -> None:
    assert told(f"a {word} house") == [f"the model does not know '{word}'"]


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a wind mill", [Thing("mill")]),
        ("a light-house", [Thing("tower")]),
        ("two pine trees", [Thing("pine")] * 2),
        ("Ｒｅｄ house", [Thing("house", "red")]),
        ("the red house’s roof is blue", [Thing("house", "red", "blue")]),
        ("a white mill & a tree + a tower", [Thing("mill", "white"), Thing("tree"), Thing("tower")]),
        ("both a tree and a mill", [Thing("tree"), Thing("mill")]),
        ("a couple of oaks", [Thing("tree")] * 2),
        ("some houses", [Thing("house")] * 2),
    ],
)
def test_spellings_of_one_meaning_are_read_alike(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


RED, BLUE = Thing("house", "red"), Thing("house", "blue")
RED_LEFT, BLUE_RIGHT = Thing("house", "red", place="left"), Thing("house", "blue", place="right")


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a red and a blue house", [RED, BLUE]),
        ("red and blue houses", [RED, BLUE]),
        ("the first house is red, the second house is blue", [RED, BLUE]),
        ("two houses; the first is red, the other is blue", [RED, BLUE]),
        ("two red and a blue house", [RED, RED, BLUE]),
        ("a red house and a blue one", [RED, BLUE]),
        ("a mill, a red and a blue house", [Thing("mill"), RED, BLUE]),
        ("two houses, one red and one blue", [RED, BLUE]),
        ("two houses: red and blue", [RED, BLUE]),
        ("a red house, another in blue", [RED, BLUE]),
        ("a house and a mill, both white", [Thing("house", "white"), Thing("mill", "white")]),
        ("all the mills are white", [Thing("mill", "white")] * 3),
        ("two trees, one left, one right", [Thing("tree", place="left"), Thing("tree", place="right")]),
        ("the left house is red, the right house is blue", [RED_LEFT, BLUE_RIGHT]),
        ("a red house on the left and a blue one on the right", [RED_LEFT, BLUE_RIGHT]),
        ("a red house and a mill. The house has a blue roof", [Thing("house", "red", "blue"), Thing("mill")]),
        ("the roof of the red house is blue", [Thing("house", "red", "blue")]),
        ("two red houses, blue roofs", [Thing("house", "red", "blue")] * 2),
        ("blue roofs on two red houses", [Thing("house", "red", "blue")] * 2),
        ("a red house with a roof in blue", [Thing("house", "red", "blue")]),
        ("a red house; then the camera pans right", [RED]),
    ],
)
def test_each_of_several_things_of_a_kind_has_its_own_color_and_place(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "word", "why"),
    [
        ("a red meadow, a mill", "red", "not light or ground"),
        ("a red green mill", "red", "one color"),
        ("a red and blue mill", "red", "no thing is left"),
        ("a red mill with white walls", "white", "one color"),
        ("a tree with a red roof", "red", "a tree has one color"),
        ("a mill on the left on the right", "right", "no thing is left"),
        ("left", "left", "no thing is left"),
        ("a dark blue mill", "dark", "shades"),
        ("from day to night, a mill", "day", "one light, here 'night'"),
        ("a mill in the snow, in the desert", "snow", "one ground, here 'desert'"),
        ("at 12:30 a mill", "12", "counts no thing"),
        ("no house; a blue one", "blue", "no thing is left"),
    ],
)
def test_a_known_word_that_is_not_drawn_is_told(prompt: str, word: str, why: str) -> None:
    sentences = [sentence for sentence in told(prompt) if sentence.startswith(f"'{word}' is ignored")]
    assert len(sentences) == 1 and why in sentences[0]


def test_a_color_of_what_cannot_be_drawn_goes_to_nothing_else() -> None:
    assert describe("a house, a red car and a blue mill").things == [Thing("house"), Thing("mill", "blue")]


def test_every_plural_of_a_thing_is_known() -> None:
    assert {CANONICAL[word] for word in ("cottages", "oaks", "lighthouses", "firs", "windmills")} == {
        *("house", "tree", "tower", "pine", "mill")
    }


@pytest.mark.parametrize(
    ("prompt", "left_out"),
    [
        ("a meadow without trees, a red house", "without trees"),
        ("no mill, a red house", "no mill"),
        ("a red house; there isn't a tower", "isn't a tower"),
        ("don’t draw trees, a red house", "don't draw trees"),
        ("remove the mill, a red house", "remove the mill"),
        ("a treeless meadow and a red house", "treeless"),
        ("a meadow free of trees & a red house", "free of trees"),
        ("0 trees and a red house", "0 trees"),
    ],
)
def test_what_is_negated_is_not_drawn_and_told(prompt: str, left_out: str) -> None:
    assert describe(prompt).things == [Thing("house", "red")]
    (sentence,) = told(prompt)
    assert sentence.startswith(f"'{left_out}' is ignored")


def test_a_count_asks_for_as_many_things_each_at_a_place_of_its_own() -> None:
    two = arranged(describe("two red houses with blue roofs"))
    assert two.things == [Thing("house", "red", "blue", "left"), Thing("house", "red", "blue", "right")]
    assert [thing.place for thing in arranged(describe("3 trees")).things] == ["left", "middle", "right"]
    assert [thing.place for thing in arranged(describe("two mills on the right")).things] == ["right", "left"]
    assert [thing.place for thing in arranged(describe("two mills ahead")).things] == ["ahead", "ahead"]


def test_things_without_a_free_place_come_later_and_too_many_cause_a_warning() -> None:
    many = ", ".join(["a house"] * 9)
    places = [thing.place for thing in arranged(describe(many)).things]
    assert places == ["left", "middle", "right", *["ahead"] * 6]
    assert told(many) == ["the prompt names 9 things, and the model draws only the first 7"]
    assert bool(phrase_ids(many, PAFU_MINI.text_len)[7].any()) and len(phrase_ids(many, PAFU_MINI.text_len)) == 8


@pytest.mark.parametrize("number", ["four", "dozens", "7", "9" * 5000])
def test_more_than_can_be_drawn_is_told(number: str) -> None:
    assert len(describe(f"{number} pines").things) == 3
    assert told(f"{number} pines") == [f"'{number}' is too many: the model draws at most 3 of a kind"]


def test_things_without_places_do_not_share_one() -> None:
    said = arranged(describe("a blue tower and a red mill"))
    assert [thing.place for thing in said.things] == ["left", "right"]
    assert [thing.place for thing in arranged(describe("a tower on the right and a mill")).things] == ["right", "left"]
    assert arranged(describe("a blue tower")).things == [Thing("tower", "blue")], "alone it may stand anywhere"
    same = torch.equal(arranged_ids("a tower and a mill", 8), phrase_ids("a tower on the left and a mill, right", 8))
    assert same, "this is what a stream is told"


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("behind", "side by side"),
        ("beside", "side by side"),
        ("big", "sizes"),
        ("grey", "the colors are red"),
        ("dog", "draws only houses"),
        ("zooming", "pans left or right"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(word: str, why: str) -> None:
    (sentence,) = told(f"a {word} house, a tree")
    assert sentence.startswith(f"'{word}' is ignored") and why in sentence


@pytest.mark.parametrize("word", ["🏠", "赤い家", "дом", "हिन्दी"])
def test_emoji_and_other_scripts_are_unknown_words(word: str) -> None:
    assert unknown_words(f"a {word} and a red house", PAFU_MINI) == [word]


@pytest.mark.parametrize(
    "prompt",
    [
        "ein rotes Haus auf einer Wiese",
        "una casa roja",
        "赤い家",
        "черный дом",
        "🏠🌲",
        "a red house und ein Baum",
        "a mill et un arbre",
    ],
)
def test_another_language_is_told_so(prompt: str) -> None:
    (sentence,) = told(prompt)
    assert "English" in sentence


def test_a_word_that_is_negated_is_not_called_unknown_as_well() -> None:
    assert LEXICON.unknown("a meadow, no zeppelins") == []


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("a meadow by day, a red house", "the prompt names nothing new"),
        ("", "the prompt names nothing new"),
        ("a desert, a red house", "the new ground"),
        ("a meadow at night, a red house", None),
        ("a desert, a blue house", None),
        ("two red houses", None),
        ("a house, a red house", None),
        ("a meadow by day, a mill ahead", "what is ahead"),
        ("a mill ahead; the camera pans right", None),
        ("a meadow at night, a mill ahead", "what is ahead"),
        ("a mill ahead and a tree on the left", None),
        ("the camera pans left", None),
    ],
)
def test_words_that_change_nothing_in_sight_are_told(after: str, says: str | None) -> None:
    sentences = not_in_sight("a meadow by day, a red house", after, PAFU_MINI)
    assert [sentence.startswith(says or "") for sentence in sentences] == ([True] if says else [])


def test_a_model_that_reads_any_words_is_told_nothing() -> None:
    wan = spec_named("wan2.1-1.3b")
    assert warnings("ein 🏠, no trees", wan) == unknown_words("huose", wan) == not_in_sight("a", "b", wan) == []
