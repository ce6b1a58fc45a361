"""Promise: prompts as people write them are read as they are meant: lists, references, negations, counts, notations."""

from __future__ import annotations

import time

import pytest

from model.spec import PAFU_MINI
from model.words.grammar import Thing, describe
from model.words.vocabularies import not_in_sight, warnings


def house(colour: str | None = None, accent: str | None = None, place: str | None = None) -> Thing:
    return Thing("house", colour, accent, place)


def mill(colour: str | None = None, accent: str | None = None, place: str | None = None) -> Thing:
    return Thing("mill", colour, accent, place)


def tower(colour: str | None = None, accent: str | None = None, place: str | None = None) -> Thing:
    return Thing("tower", colour, accent, place)


RED, BLUE = house("red"), house("blue")
RED_LEFT, BLUE_RIGHT = house("red", place="left"), house("blue", place="right")
SPARSE = "a house, a mill and a tower"


def told(prompt: str) -> list[str]:
    return warnings(prompt, PAFU_MINI)


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("two houses with red and blue roofs", [house(None, "red"), house(None, "blue")]),
        ("two red houses with yellow and blue roofs", [house("red", "yellow"), house("red", "blue")]),
        ("three mills with red, blue and green caps", [mill(None, each) for each in ("red", "blue", "green")]),
        ("two houses, red and blue roofs", [house(None, "red"), house(None, "blue")]),
        ("two houses whose roofs are red and blue", [house(None, "red"), house(None, "blue")]),
        ("two houses. Their roofs are red and blue.", [house(None, "red"), house(None, "blue")]),
        ("red and blue roofed houses", [house(None, "red"), house(None, "blue")]),
        ("a house and a mill with red and blue roofs", [house(None, "red"), mill(None, "blue")]),
        ("two houses with red and white walls and blue roofs", [house("red", "blue"), house("white", "blue")]),
        ("two houses in red and blue", [RED, BLUE]),
        ("three houses with red and blue roofs", [house(None, each) for each in ("red", "blue", "red")]),
        ("two towers with red/blue tops", [tower(None, "red"), tower(None, "blue")]),
        ("red and blue roofs on two houses", [house(None, "red"), house(None, "blue")]),
        ("two houses with a red and a blue roof", [house(None, "red"), house(None, "blue")]),
        ("two houses with a red roof and a blue roof", [house(None, "red"), house(None, "blue")]),
        ("two towers with a red top, a blue top", [tower(None, "red"), tower(None, "blue")]),
        ("three mills: a red cap, a blue cap, a white cap", [mill(None, each) for each in ("red", "blue", "white")]),
        ("a house and a mill with a red roof and a blue cap", [house(None, "red"), mill(None, "blue")]),
        ("a red-roofed and a blue-roofed house", [house(None, "red"), house(None, "blue")]),
        ("red-roofed and blue-roofed houses", [house(None, "red"), house(None, "blue")]),
        ("two red-roofed and one blue-roofed house", [*[house(None, "red")] * 2, house(None, "blue")]),
        ("a white red-roofed and a green blue-roofed mill", [mill("white", "red"), mill("green", "blue")]),
        ("a red and a blue-roofed house", [RED, house(None, "blue")]),
        ("a mill, a red-roofed and a blue-roofed house", [mill(), house(None, "red"), house(None, "blue")]),
        ("a red-walled and a blue-walled house", [RED, BLUE]),
        ("two houses, a red and a blue", [RED, BLUE]),
        ("two houses, a red-roofed and a blue-roofed", [house(None, "red"), house(None, "blue")]),
    ],
)
def test_a_list_of_colors_gives_one_to_each_of_several(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a house with a red and blue roof", "red"),
        ("a house with a red roof and a blue roof", "blue"),
        ("two houses with red, blue and green roofs", "green"),
        ("two trees with red and blue roofs", "blue"),
        ("red and blue roofs", "blue"),
    ],
)
def test_colors_of_a_list_that_find_no_roof_are_told(prompt: str, word: str) -> None:
    assert any(sentence.startswith(f"'{word}' is ignored") for sentence in told(prompt))


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("two houses and a mill; the houses are red, the mill is white", [RED, RED, mill("white")]),
        ("two houses and a mill. Both houses are red", [RED, RED, mill()]),
        ("two houses and a mill; each house has a red roof", [house(None, "red")] * 2 + [mill()]),
        ("two houses; the first house is red, the second house is blue", [RED, BLUE]),
        ("two houses. The left house is red, the right house is blue.", [RED_LEFT, BLUE_RIGHT]),
        ("two houses, each with a red roof", [house(None, "red")] * 2),
        ("a house, a mill, and a tower, each red", [RED, mill("red"), tower("red")]),
        (f"{SPARSE}. The first is red, the second blue, the third white", [RED, mill("blue"), tower("white")]),
        ("a house and a mill. The former is red, the latter blue", [RED, mill("blue")]),
        ("two mills, one red with a blue cap and one blue with a red cap", [mill("red", "blue"), mill("blue", "red")]),
        ("three houses; the first is red, the others are blue", [RED, BLUE, BLUE]),
        ("two houses, a red one and a blue one", [RED, BLUE]),
        ("two houses, one red, another blue", [RED, BLUE]),
        ("the left house is red and the right one is blue", [RED_LEFT, BLUE_RIGHT]),
        ("one house is red and the other one is blue", [RED, BLUE]),
        ("a mill with a red cap and one with a blue cap", [mill(None, "red"), mill(None, "blue")]),
        ("a house with a red roof and a mill with a blue one", [house(None, "red"), mill(None, "blue")]),
        ("on the left a house, on the other side a mill", [house(place="left"), mill(place="right")]),
        ("two houses, one of them red", [RED, house()]),
        ("a red and a blue house; the blue one has a white roof", [RED, house("blue", "white")]),
        ("a tree on the left and one on the right", [Thing("tree", place="left"), Thing("tree", place="right")]),
        ("both the house and the mill are red", [RED, mill("red")]),
        ("a house, a mill and a tower have red roofs", [house(None, "red"), mill(None, "red"), tower(None, "red")]),
        ("two houses; they have red roofs and white walls", [house("white", "red")] * 2),
        ("one red-roofed house and one blue-roofed one", [house(None, "red"), house(None, "blue")]),
        ("the mill's cap is red and the tower's is blue", [mill(None, "red"), tower(None, "blue")]),
        ("two mills on the left and right; the right is red", [mill(place="left"), mill("red", place="right")]),
    ],
)
def test_words_for_things_that_were_named_add_none(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a house without a red roof but with a blue one", [house(None, "blue")]),
        ("a house that doesn't have a red roof but a blue one", [house(None, "blue")]),
        ("nothing but a mill", [mill()]),
        ("a mill and nothing else", [mill()]),
        ("not a red house but a blue one", [BLUE]),
        ("neither a red nor a blue house, but a green one", [house("green")]),
        ("a mill instead of a house", [mill()]),
        ("instead of a house a mill", [mill()]),
        ("instead of a red house draw a blue one", [BLUE]),
        ("a house with a blue instead of a red roof", [house(None, "blue")]),
        ("a house that is not red but blue", [BLUE]),
        ("the roof is not red but blue, a house", [house(None, "blue")]),
        ("not only a house but also a mill", [house(), mill()]),
        ("not one house but two", [house(), house()]),
        ("replace the house with a mill", [mill()]),
        ("turn the house into a mill", [mill()]),
        ("change the red house to a blue mill", [mill("blue")]),
        ("a mill, no fog", [mill()]),
        ("get rid of the fog; a mill", [mill()]),
        ("let the fog lift, a mill", [mill()]),
    ],
)
def test_a_negation_with_what_is_meant_instead_is_understood(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "things", "left_out"),
    [
        ("a house without trees, mills or people", [house()], "without trees, mills or people"),
        ("a red house --no trees, mills", [RED], "no trees, mills"),
        ("a mill, no house, tree or tower", [mill()], "no house, tree or tower"),
        ("a red house. Negative prompt: blurry, trees", [RED], "negative prompt: blurry, trees"),
        ("negative prompt: trees, blurry\na red house", [RED], "negative prompt: trees, blurry"),
        ("a red house; avoid: trees, people", [RED], "avoid: trees, people"),
        ("everything but a mill; a house", [house()], "everything but a mill"),
        ("a non-red house", [house()], "non-red"),
        ("a house that isn't red on the left", [house(place="left")], "isn't red"),
        ("a house with no roof on the left", [house(place="left")], "no roof"),
        ("a red house (not blue)", [RED], "not blue"),
        ("a house - no trees - on the left", [house(place="left")], "no trees"),
        ("no trees a house", [house()], "no trees"),
        ("no trees, red house, blue mill", [RED, mill("blue")], "no trees"),
        ("a red house without trees at night", [RED], "without trees"),
        ("a red house; the old mill is gone", [RED], "the old mill is gone"),
        ("a red house trees disappear", [RED], "trees disappear"),
        ("a red house; the mill is no longer there", [RED], "the mill is no longer there"),
        ("take the mill away and show a red house", [RED], "take the mill away"),
        ("a red house and fewer trees", [RED], "fewer trees"),
        ("a red house; exclude: mill, tower", [RED], "exclude: mill, tower"),
        ("trees: none, house: red", [RED], "no trees"),
        ("red house -mill", [RED], "no mill"),
        ("a tree-free meadow, a red house", [RED], "treeless"),
    ],
)
def test_a_negation_reaches_as_far_as_it_is_meant_and_is_told(prompt: str, things: list[Thing], left_out: str) -> None:
    assert describe(prompt).things == things
    (sentence,) = told(prompt)
    assert sentence.startswith(f"'{left_out}' is ignored: the model can draw things, but not leave them out")


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        *(("no more than two houses", 2), ("at least two houses", 2), ("more than one house", 2), ("2x house", 2)),
        *(("fewer than three houses", 2), ("house x3", 3), ("02 houses", 2), ("2-3 houses", 3), ("exactly 1 house", 1)),
    ],
)
def test_counts_are_read_in_words_and_signs(prompt: str, count: int) -> None:
    assert describe(prompt).things == [house()] * count and told(prompt) == []


@pytest.mark.parametrize("prompt", ["1,000 houses", "three hundred houses", "a lot of houses", "twenty-two houses"])
def test_a_large_number_is_told_once(prompt: str) -> None:
    (sentence,) = told(prompt)
    assert len(describe(prompt).things) == 3 and "too many" in sentence


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("I would like to see a red house with a blue roof, please.", [house("red", "blue")]),
        ("Could you show me a mill and generate a video of it?", [mill()]),
        ("a mill white with a cap red", [mill("white", "red")]),
        ("a house with a red roof and a blue roof on the mill", [house(None, "red"), mill(None, "blue")]),
        ("a house that is red with a roof that is blue", [house("red", "blue")]),
        ("house: red, roof: blue", [house("red", "blue")]),
        ("roof of the house: red; cap of the mill: yellow", [house(None, "red"), mill(None, "yellow")]),
        ("a house, white with a red roof, left", [house("white", "red", "left")]),
        ("an all-red house, no doubt", [RED]),
        ("a red-capped white mill", [mill("white", "red")]),
        ("walls red, roof blue, house left", [house("red", "blue", "left")]),
        ("1. a red house 2. a blue mill", [RED, mill("blue")]),
        ("1) a red house\n2) a blue mill", [RED, mill("blue")]),
        ("a tower on the right-hand side", [tower(place="right")]),
        ("red house w/ blue roof", [house("red", "blue")]),
        ("1st house red, 2nd house blue", [RED, BLUE]),
        ("a house followed by a mill", [house(), mill(place="ahead")]),
        ("left of the red mill a house", [mill("red"), house(place="left")]),
        ("to the right of the house: a mill", [house(), mill(place="right")]),
        ("in the middle of the houses a mill", [house(), house(), mill(place="middle")]),
        ("a house, left of the mill", [house(place="left"), mill()]),
        ("from left to right: a house, a mill", [house(), mill()]),
        ("a house then a mill then a tower", [house(), mill(place="ahead"), tower(place="ahead")]),
        ("in the middle of the night a house right at the left", [house(place="left")]),
        ("right now the sun sets; a house", [house()]),
        ("a house painted red at night", [RED]),
        ("on the left a house in red on the right a mill", [house("red", place="left"), mill(place="right")]),
        ("the roof of the house turns blue in the snow", [house(None, "blue")]),
        ("turn the red house blue", [BLUE]),
        ("a red house; make it blue", [BLUE]),
        ("change the house from red to blue", [BLUE]),
        ("a red house with a white roof; the roof turns blue at night", [house("red", "blue")]),
        ("put a mill on the right, give the mill a red cap", [mill(None, "red", "right")]),
        ("subject: a mill; lighting: sunset; weather: fog", [mill()]),
        ("trees on both sides", [Thing("tree", place="left"), Thing("tree", place="right")]),
        ("a green meadow at an orange sunset, now a mill in the evening light", [mill()]),
    ],
)
def test_what_is_drawn_as_it_is_meant_is_not_warned_about(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things and told(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("(red house:1.3)", "':1.3' is ignored: the model does not weigh words"),
        ("(blue mill:0.8)", "':0.8' is ignored: the model does not weigh words"),
        ("a house or a mill", "'or' is ignored: the model does not choose"),
        ("a roof", "'roof' is ignored: no thing is left for it"),
        ("another one", "'another' is ignored: no thing is left for it"),
        ("houses: 3", "'3' is ignored: it counts no thing"),
        ("1/2 house", "the model does not know '1/2'"),
        ("half a dozen houses", "'dozen' is too many: the model draws at most 3 of a kind"),
        ("a house beyond the mill", "'beyond' is ignored: things stand side by side; say left, middle, right or ahead"),
        ("left of the mill", "'left' is ignored: no thing is left for it"),
        ("a light blue house", "'light' is ignored: neither shades nor lamps can be chosen"),
        ("it is snowing", "'snowing' is ignored: fog is the only weather"),
    ],
)
def test_what_is_dropped_is_told(prompt: str, sentence: str) -> None:
    assert told(prompt) == [sentence]


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a red door on a house", [house()]),
        ("a red boat near a house", [house()]),
        ("a house painted red next to a mill", [RED, mill()]),
        ("a mill in red behind a house", [mill("red"), house()]),
    ],
)
def test_a_color_before_a_relation_is_not_that_of_the_thing_after_it(prompt: str, things: list[Thing]) -> None:
    assert describe(prompt).things == things


@pytest.mark.parametrize("prompt", ["красный дом on the left", "赤い家 and a red mill", "a 집", "a red house, بيت"])
def test_a_word_in_another_script_is_told_as_another_language(prompt: str) -> None:
    assert sum("English" in sentence for sentence in told(prompt)) == 1


def test_what_comes_ahead_because_no_place_is_left_is_not_in_sight() -> None:
    before = "a house, a mill, a tree"
    (sentence,) = not_in_sight(before, before + ", a tower", PAFU_MINI)
    assert "only when the camera moves" in sentence
    assert not_in_sight(before, "another tower", PAFU_MINI) == [sentence]
    assert not_in_sight("a house, a mill", "another tower", PAFU_MINI) == []


@pytest.mark.parametrize(
    "prompt", ["a red house, the sky is blue", "a house; make the sky blue", "a house whose door is blue"]
)
def test_the_color_of_an_unknown_thing_is_told_and_goes_to_no_other(prompt: str) -> None:
    assert describe(prompt).things[0].colour in (None, "red")
    assert "'blue' is ignored: no thing is left for it" in told(prompt)


def test_fog_that_goes_changes_the_view() -> None:
    assert not_in_sight("a house in fog", "the fog lifts", PAFU_MINI) == []
    (sentence,) = not_in_sight("a house", "no fog", PAFU_MINI)
    assert "nothing new" in sentence


@pytest.mark.parametrize(
    "phrase",
    [
        "the house ",
        " left of the house ",
        "the house is gone, ",
        "a house, ",
        "red, ",
        "no trees, ",
        "zero, ",
        "one ",
        "the houses, ",
    ],
)
def test_the_time_to_read_a_prompt_grows_with_its_length_and_not_faster(phrase: str) -> None:
    def seconds(times: int) -> float:
        begun = time.process_time()
        told(phrase * times)
        return time.process_time() - begun

    short = min(seconds(200) for _ in range(3))
    assert seconds(3200) < 16 * 5 * short, "sixteen times the length; quadratic would be 256 times the work"
