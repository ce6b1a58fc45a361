"""Promise: how far a color drifts is measured on the pixels that had it, in degrees of hue and gray levels."""

from __future__ import annotations

import numpy as np
import pytest

from model.distill.data.world import RGB
from model.distill.evaluation.steadiness import Drift, drift, prompt_of, table
from model.words.grammar import Thing, describe
from model.words.vocabulary import COLOURS


def painted(colour: tuple[int, int, int]) -> np.ndarray:
    """A picture whose left half has a color; the rest is the sky."""
    picture = np.full((10, 20, 3), (92, 172, 226), np.uint8)
    picture[:, :10] = colour
    return picture


def test_only_pixels_that_had_the_color_are_judged() -> None:
    found = drift(painted(RGB["red"]), painted(RGB["red"]), "red", "walls", 1)
    assert (found.pixels, found.hue, found.levels) == (100, 0, 0)
    assert drift(painted(RGB["green"]), painted(RGB["red"]), "red", "walls", 1).levels is None
    assert drift(painted(RGB["white"]), painted(RGB["white"]), "blue", "walls", 1).pixels == 0, (
        "the sky is no blue wall"
    )


def test_a_third_of_the_circle_is_120_degrees_and_white_has_no_hue() -> None:
    found = drift(painted((214, 48, 48)), painted((48, 214, 48)), "red", "roof", 1)
    assert found.hue == pytest.approx(120) and found.levels == pytest.approx(2 * 166 / 3)
    assert drift(painted(RGB["white"]), painted((200, 200, 200)), "white", "roof", 1).hue is None


@pytest.mark.parametrize("colour", COLOURS)
def test_walls_and_the_roof_of_another_thing_have_the_color(colour: str) -> None:
    tower, mill = describe(prompt_of(colour)).things
    other = "red" if colour == "white" else "white"
    assert tower == Thing("tower", colour, other, "left") and mill == Thing("mill", other, colour, "right")


def test_the_table_says_how_many_streams_were_judged() -> None:
    found = [Drift("red", "walls", 1, 90, 4.0, 2.0), Drift("red", "walls", 2, 3, None, None)]
    cells = [list(column.cells) for column in table(found).columns]
    assert cells[0] == list(COLOURS) and cells[1][0] == "4 (1 of 2)" and cells[3][0] == "-"
