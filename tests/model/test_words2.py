"""Promise: the second world's vocabulary: what is understood, and what is refused by name."""

from __future__ import annotations

import pytest

from model.words.grammar2 import GRAMMAR, Thing, describe
from model.words.vocabulary2 import CANONICAL, EXAMPLES, LEXICON, SYNONYMS


def test_no_word_means_two_things():
    words = [word for token, others in SYNONYMS.items() for word in (token, *others)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("huose", "house"),
        ("lighthose", "lighthouse"),
        ("purpel", "purple"),
        ("medow", "meadow"),
        ("snwoman", "snowman"),
    ],
)
def test_a_slip_suggests_the_word_that_was_meant(slip, meant):
    assert LEXICON.suggestion(slip) == meant
    assert LEXICON.warnings(f"a {slip}") == [f"the model does not know '{slip}'; did you mean '{meant}'?"]


def test_nothing_is_suggested_for_what_resembles_no_word():
    assert LEXICON.warnings("a submarine") == ["the model does not know 'submarine'"]


@pytest.mark.parametrize(
    ("prompt", "left_out"),
    [
        ("a meadow with no trees, a red house", "no trees"),
        ("a red house without a roof", "without a roof"),
        ("a red house, not a blue one", "not a blue one"),
    ],
)
def test_a_negation_is_left_out_and_told(prompt, left_out):
    assert describe(prompt).things == [Thing("house", "red")]
    assert any(f"'{left_out}' is ignored" in told for told in LEXICON.warnings(prompt))


def test_a_count_asks_for_as_many_phrases_up_to_the_most():
    assert describe("two red houses with blue roofs").things == [Thing("house", "red", "blue")] * 2
    assert describe("3 sheep on the left").things[-1] == Thing("sheep", place="left")
    assert len(describe("3 sheep").things) == 3
    assert len(describe("nine sheep").things) == 4
    assert GRAMMAR.warnings("nine sheep") == ["'nine' is too many: the model draws at most 4 of a kind"]
    assert GRAMMAR.warnings("two red houses") == []


def test_behind_and_in_front_are_distances_of_the_thing_before():
    assert describe("a red mill behind a tree").things == [Thing("mill", "red", distance="far"), Thing("tree")]
    assert describe("a white fence in front").things == [Thing("fence", "white", distance="near")]


def test_light_that_turns_is_read_as_now_and_later():
    said = describe("a lake by day turning to night")
    assert (said.light, said.later, said.ground) == ("day", "night", "lake")


@pytest.mark.parametrize("word", ["🏠", "赤い家", "дом", "हिन्दी"])
def test_emoji_and_other_scripts_are_unknown_words(word):
    assert LEXICON.unknown(f"a {word} and a red house") == [word]


def test_another_language_is_told_so():
    (told,) = LEXICON.warnings("ein rotes Haus auf einer Wiese")
    assert "English" in told


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_examples_raise_no_complaint(prompt):
    assert GRAMMAR.warnings(prompt) == []
    assert all(word in CANONICAL for word in ("houses", "churches", "ponies", "roofs"))
