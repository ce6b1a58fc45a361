"""Promise: in ``pafu demo memory`` the camera returns to exactly the same place, whatever the time away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from model.camera import CameraControl, CameraState, advance
from model.spec import PAFU_MINI
from model.words.grammar import describe
from server.cli.main import app
from server.cli.revisit import fog, plan


@pytest.mark.parametrize("away", [1, 3.3, 20, 50, 300])
def test_the_camera_is_back_where_it_was(away: float) -> None:
    trip = plan(PAFU_MINI, "a red mill", away)
    state, stands = CameraState(), []
    for control in trip.controls:
        state, *_ = advance(state.steered(control, PAFU_MINI.width), PAFU_MINI.chunk_latents, PAFU_MINI.temporal_stride)
        stands.append(state.offset)
    assert stands[trip.before] == stands[trip.after] == 0 and state.speed == 0
    assert stands[trip.away] == max(stands) > 0
    seconds = len(trip.controls) * PAFU_MINI.pictures_in_chunk(1) / PAFU_MINI.fps
    assert away * 0.8 <= seconds <= away * 1.2 + 10, "about as long as was asked"


def test_fog_hides_the_place_for_as_long_as_asked_and_nothing_names_it_again() -> None:
    trip = fog(PAFU_MINI, "a red mill in the snow", 9)
    assert all(control == CameraControl(speed=0) for control in trip.controls)
    said = [describe(prompt) for prompt in trip.prompts]
    foggy = [index for index, each in enumerate(said) if each.weather == "fog"]
    assert len(foggy) == 12 and foggy[0] == trip.before + 1 and foggy[-1] == trip.away < trip.after == len(said) - 1
    assert said[trip.before].things and not any(each.things for each in said[foggy[0] :])


def test_a_model_that_does_not_know_fog_says_so() -> None:
    with pytest.raises(ValueError, match="does not know fog: let the camera leave"):
        fog(replace(PAFU_MINI, text_encoder="umt5"), "a red mill", 9)


def test_a_row_of_pictures_for_each_policy(tmp_path: Path) -> None:
    out = tmp_path / "memory.png"
    command = [
        "demo",
        "memory",
        "a red mill",
        "--model",
        "test-tiny",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--away",
        "2",
    ]
    command += ["-o", str(out)]
    result = CliRunner().invoke(app, [*command, "--policies", "window,sink_window"])
    assert result.exit_code == 0, result.output
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 128 and sheet.height > 2 * 128


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policies", "memory"], "unknown cache policy 'memory'"),
        (["--model", "wan2.1-1.3b"], "has no camera control"),
        (["-o", "/nowhere/memory.png"], "/nowhere"),
    ],
)
def test_what_cannot_work_is_one_line(options: list[str], said: str) -> None:
    base = ["demo", "memory", "--model", "test-tiny", "--device", "cpu", "--away", "1"]
    result = CliRunner().invoke(app, [*base, *options])
    assert result.exit_code == 1 and said in result.output and "Traceback" not in result.output
