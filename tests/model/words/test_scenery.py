"""Promise: a chunk is told of what is in view; what stands at a new place, the seed chooses, clearly and for good."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.words.grammar import describe
from model.words.scenery import FIRST_PLACE, PLACE_SPACING, View, scenery, told_here
from model.words.vocabulary import ROOFED

WIDTH = 256
TOLD = "meadow day, red house with blue roof left, white mill with green roof right"
REST, PAN = View(0, 0, WIDTH), View(0, 96, WIDTH)
seeds = st.integers(0, 2**31)


def columns(places: list[int]) -> list[int]:
    return [FIRST_PLACE + PLACE_SPACING * place for place in places]


@given(seeds)
def test_a_camera_at_rest_is_told_only_the_prompt(seed: int) -> None:
    assert told_here(TOLD, seed, REST, 0, frozenset()) == TOLD


@given(st.integers(-2000, 2000), st.sampled_from([-192, -96, -48, 48, 96, 192]))
def test_places_come_into_view_from_the_side_to_which_the_camera_moves(begin: int, step: int) -> None:
    view = View(begin, begin + step, WIDTH)
    found = columns(view.coming)
    assert found and found == sorted(found, reverse=step < 0)
    ahead = [column - begin for column in found]
    assert all(offset >= WIDTH for offset in ahead) if step > 0 else all(offset < 0 for offset in ahead)
    entered = [column for column in columns(sorted(view.shown)) if not 0 <= column - begin < WIDTH]
    assert set(entered) <= set(found)


def test_what_comes_into_view_is_the_same_for_the_same_seed_and_another_for_others() -> None:
    told = [told_here(TOLD, seed, PAN, 0, frozenset()) for seed in range(20)]
    assert told == [told_here(TOLD, seed, PAN, 0, frozenset()) for seed in range(20)]
    assert len(set(told)) > 10
    for words in told:
        said = describe(words)
        assert replace(said, things=said.things[:2]) == describe(TOLD) and not said.ignored
        assert all(thing.colour and thing.place == "ahead" for thing in said.things[2:])
        assert all(thing.accent for thing in said.things[2:] if thing.kind in ROOFED)


@given(seeds)
def test_a_place_that_was_in_view_is_never_told_again(seed: int) -> None:
    assert told_here(TOLD, seed, PAN, 0, frozenset(PAN.coming)) == TOLD


@given(seeds, st.integers(-40, 40))
def test_the_same_thing_stands_at_a_place_from_both_sides(seed: int, place: int) -> None:
    left = FIRST_PLACE + PLACE_SPACING * place
    from_left = View(left - WIDTH, left - WIDTH + 8, WIDTH)
    from_right = View(left + 1, left - 7, WIDTH)
    assert from_left.coming == from_right.coming == [place]
    told = [told_here("meadow day", seed, view, 0, frozenset()) for view in (from_left, from_right)]
    assert [describe(words).things for words in told] == [[scenery(seed, place)]] * 2


@given(seeds, st.integers(-3000, 3000))
def test_a_cut_to_a_new_place_names_what_stands_there_by_thirds(seed: int, offset: int) -> None:
    view = View(offset, offset, WIDTH, jumped=True)
    things = describe(told_here("meadow day", seed, view, 0, frozenset())).things
    assert len(things) == len(view.shown) >= 3 and {thing.place for thing in things} == {"left", "middle", "right"}
    assert told_here("meadow day", seed, view, 0, view.shown) == "meadow day", "back at a place that was in view"
    assert told_here(TOLD, seed, view, offset, frozenset()) == TOLD, "a prompt that names what is to be seen here"


@pytest.mark.parametrize("words", ["meadow day, green pine ahead", "meadow day fog, red tree left"])
def test_a_prompt_that_says_what_is_ahead_or_that_nothing_is_to_be_seen_is_left_as_it_is(words: str) -> None:
    assert all(told_here(words, seed, PAN, 0, frozenset()) == words for seed in range(20))


@pytest.mark.parametrize("screens", [-3, 1, 7])
def test_a_thing_is_told_only_while_its_place_is_near(screens: int) -> None:
    """Otherwise an identical red house would stand seven screens away."""
    away = View(WIDTH * screens, WIDTH * screens, WIDTH)
    assert describe(told_here(TOLD, 5, away, 0, frozenset())).things == []
    assert told_here(TOLD, 5, away, WIDTH * screens + 100, frozenset()) == TOLD
