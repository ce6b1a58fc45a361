"""Promise: the camera's ramps, limits and prompt phrases."""

from __future__ import annotations

import pytest

from model.camera import (
    MAX_ACCELERATION,
    MAX_SPEED,
    CameraControl,
    CameraError,
    CameraState,
    advance,
    camera_from_prompt,
    follow,
)
from model.words.grammar import Thing, describe


@pytest.mark.parametrize(
    ("prompt", "speed"),
    [
        ("a red house; the camera pans right", 8),
        ("the camera pans slowly left", -4),
        ("the camera pans from left to right", 8),
        ("pan slowly from the right to the left", -4),
        ("pans left fast", -16),
        ("moving back to the right", 8),
        ("A meadow. The camera holds still.", 0),
        ("looks LEFT", -8),
        ("a house, the camera does not pan left", 0),
        ("the camera doesn’t move", 0),
        ("a mill, camera left", -8),
    ],
)
def test_words_steer_the_camera(prompt, speed):
    assert camera_from_prompt(prompt) == CameraControl(speed=speed)


def test_a_place_is_not_a_direction():
    assert camera_from_prompt("a red house on the left, a tree on the right") is None
    assert camera_from_prompt("a red house, the camera never stops") is None, "at which speed?"
    assert describe("a red house; the camera pans right").things == [Thing("house", "red")]


def test_speed_ramps_and_never_passes_its_limits():
    state, offsets, speeds = advance(CameraState().steered(CameraControl(speed=MAX_SPEED), 256), 4)
    assert speeds == [8, 16, 16, 16]
    assert all(abs(b - a) <= MAX_ACCELERATION for a, b in zip([0, *speeds], speeds, strict=False))
    assert offsets == [0, 32, 96, 160] and state.offset == 224


@pytest.mark.parametrize(
    "control", [{"speed": MAX_SPEED + 1}, {"speed": -99}, {"cut_to": 1e9}, {"cut_to": float("nan")}]
)
def test_a_control_out_of_range_is_refused_with_what_is_allowed(control):
    with pytest.raises(CameraError, match="allowed"):
        CameraControl(**control)


def test_a_camera_follows_its_controls_without_a_break_between_them():
    offsets, speeds = follow([CameraControl(speed=8), CameraControl(speed=8), CameraControl(cut_to=2.0)], 256, 3)
    assert speeds[2:6] == [8, 8, 8, 8], "the second control goes on at the speed that the first one reached"
    assert [after - before for before, after in zip(offsets[2:5], offsets[3:6], strict=True)] == [4 * 8] * 3
    assert offsets[6] == 2 * 256, "a cut"
