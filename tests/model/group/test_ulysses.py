"""Promise: several processes that share a model make what one process makes, under every policy, and hold only their
share of the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cache.config import SERVED_POLICIES
from model.spec import SPECS, WAN_14B
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, random_model
from tests.model import group_rollouts
from tests.model.group_rollouts import CASES, SPEC, everything

ROOT = Path(__file__).resolve().parents[3]
ENDS_WITHIN = 240


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(SPEC, seed=0, dtype=torch.float32)


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> dict[str, Tensor]:
    return everything(model, CASES)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, tuple(CASES)), id="2"),
        pytest.param((4, ("pafu", "asked", "attention")), id="4", marks=pytest.mark.proof),
    ],
)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The same roll-outs by a group, as each of its processes saw them."""
    folder, (size, cases) = tmp_path_factory.mktemp("group"), request.param
    outs = [folder / f"{rank}.safetensors" for rank in range(size)]
    command = (sys.executable, group_rollouts.__file__)
    members = [
        subprocess.Popen(
            [*command, str(rank), str(size), folder / "meeting", out, *cases], env={"PYTHONPATH": str(ROOT)}
        )
        for rank, out in enumerate(outs)
    ]
    try:
        assert [member.wait(ENDS_WITHIN) for member in members] == [0] * size
    finally:
        for member in members:
            member.kill()
    return [load_file(out) for out in outs]


def test_every_policy_makes_the_same_video_and_keeps_the_same_tokens(
    alone: dict[str, Tensor], together: list[dict[str, Tensor]]
) -> None:
    for case in CASES:
        for theirs in (each for each in together if f"{case}.latents" in each):
            torch.testing.assert_close(theirs[f"{case}.latents"], alone[f"{case}.latents"], atol=1e-5, rtol=0, msg=case)
            assert torch.equal(theirs[f"{case}.kept"], alone[f"{case}.kept"]), case
    assert set(CASES) >= set(SERVED_POLICIES)


def test_all_processes_have_the_same_bits(together: list[dict[str, Tensor]]) -> None:
    first, *others = together
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first if name != "snapshot")


def test_a_stream_goes_on_from_its_snapshot_or_its_latents_on_one_device_or_several(
    model: LoadedModel, alone: dict[str, Tensor], together: list[dict[str, Tensor]]
) -> None:
    for name in ("restored", "recalled"):
        torch.testing.assert_close(together[0][name], alone[name], atol=1e-5, rtol=0)
    stream = VideoStream.restore(model, together[0]["snapshot"].numpy().tobytes())
    torch.testing.assert_close(stream.next_latents().past.latents, alone["restored"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        (
            "wan2.1-14b",
            3,
            "has 40 attention heads, which 3 devices cannot share; groups of 2 or 4 or 5 or 8 or 10 or 20 or 40 can",
        ),
        ("wan2.1-1.3b", 8, "has 12 attention heads, which 8 devices cannot share"),
        ("test-tiny", 4, "has 2 attention heads, which 4 devices cannot share; groups of 2 can"),
        ("pafu-mini-2", 2, "has 5 attention heads, which 2 devices cannot share"),
    ],
)
def test_a_model_that_cannot_be_shared_says_why(name: str, size: int, why: str) -> None:
    assert why in (SPECS[name].why_not_shared(size) or "")
    assert WAN_14B.why_not_shared(8) is None
