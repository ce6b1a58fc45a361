"""Promise: streams side by side equal the same streams one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.camera import CameraControl, CameraState, advance
from model.distill.data.script import Script
from model.distill.training.rollout import Foresight, Rollout
from model.spec import TEST_TINY, TEST_WAN
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, random_model

SPEC = TEST_TINY
TIGHT = CacheConfig(policy="pafu", budget_latents=2, sink_latents=0.5, recent_latents=1, position_mode="relative")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(SPEC, seed=0, dtype=torch.float32)


def script(speeds: list[int], prompts: list[str]) -> Script:
    state, offsets, taken = CameraState(), [], []
    for speed in speeds:
        state, o, s = advance(state.steered(CameraControl(speed=speed), SPEC.width), SPEC.chunk_latents)
        offsets += o
        taken += s
    return Script(tuple(prompts), tuple(offsets), tuple(taken))


SCRIPTS = [  # roll-outs are told prompts as they stand, so these leave nothing open, nor what is ahead
    script(
        [0, 8, -16, 8],
        ["a meadow by day, a red house with a blue roof on the left, a green pine ahead"] * 2
        + ["a meadow by night, a blue tower with a red roof on the left, a green pine ahead"] * 2,
    ),
    script([16, 16, -16, -16], ["a desert at sunset, a green pine ahead"] * 4),
]


@pytest.mark.parametrize("policy", ["pafu", "attention", "trig", "random", "redundancy"])
def test_side_by_side_equals_one_by_one(model: LoadedModel, policy: str) -> None:
    config = dataclasses.replace(TIGHT, policy=policy)
    rollout = Rollout(model, SCRIPTS, [3, 4], config)
    streams = [VideoStream(model, s.prompts[0], seed, config) for s, seed in zip(SCRIPTS, (3, 4), strict=True)]
    for chunk in range(4):
        drawn = rollout.draw()
        rollout.commit(drawn)
        for row, (stream, told, speeds) in enumerate(
            zip(streams, SCRIPTS, ([0, 8, -16, 8], [16, 16, -16, -16]), strict=True)
        ):
            stream.set_prompt(told.prompts[chunk])
            stream.set_camera(CameraControl(speed=speeds[chunk]))
            alone = stream.next_chunk()
            assert torch.allclose(drawn[row], alone.latents[0], atol=1e-4), (chunk, row)
            assert torch.equal(rollout.caches[row].numbers(1), stream.cache.numbers(1)), "other tokens were kept"


@pytest.mark.parametrize("first_steps", [(), (1000, 750, 500, 250)], ids=["usual", "longer first chunk"])
def test_new_prompts_are_heeded_as_a_stream_heeds_them(first_steps: tuple[int, ...]) -> None:
    """A Wan: its newest chunks are written again, and its first chunk may take other steps."""
    spec = dataclasses.replace(
        TEST_WAN.at(48, 32), recache_chunks=2, denoising_steps=(1000, 500), first_steps=first_steps
    )
    wan = random_model(spec, seed=0, dtype=torch.float32)
    told = [Script(("a cat",) * 2 + ("a dog",) * 2), Script(("a boat", "a ship", "a ship", "a car"))]
    config = CacheConfig(
        policy="sink_window", budget_latents=6, sink_latents=3, recent_latents=0, position_mode="relative"
    )
    rollout = Rollout(wan, told, [3, 4], config)
    streams = [VideoStream(wan, s.prompts[0], seed, config) for s, seed in zip(told, (3, 4), strict=True)]
    for chunk in range(4):
        drawn = rollout.draw()
        rollout.commit(drawn)
        for row, (stream, script) in enumerate(zip(streams, told, strict=True)):
            stream.set_prompt(script.prompts[chunk])
            alone = stream.next_latents()
            torch.testing.assert_close(drawn[row], alone.past.latents[0], atol=1e-4, rtol=0)


def test_foresight_is_the_attention_that_was_going_to_come(model: LoadedModel) -> None:
    full = dataclasses.replace(TIGHT, policy="full", budget_latents=12, sink_latents=0, recent_latents=0)
    table = Foresight(SPEC, 4)
    rollout = Rollout(model, SCRIPTS[1:], [3], full, [table], note=True)
    for _ in range(4):
        rollout.commit(rollout.draw())
    numbers = torch.arange(3 * SPEC.tokens_per_chunk)
    soon, later = table.after(0, 0, numbers), table.after(0, 2, numbers)
    assert bool((soon[: SPEC.tokens_per_chunk] >= later[: SPEC.tokens_per_chunk]).all()), (
        "more chunks can only see more"
    )
    assert bool((later > 0).all()) and float(table.after(0, 3, numbers).sum()) == 0
    target = table.target(2, SPEC.tokens_per_chunk)
    assert torch.equal(target[0, : SPEC.tokens_per_chunk], table.after(0, 1, numbers)[: SPEC.tokens_per_chunk])
    assert float(target[:, 2 * SPEC.tokens_per_chunk :].sum()) == 0


def test_the_oracle_keeps_what_the_future_looks_at(model: LoadedModel) -> None:
    table = Foresight(SPEC, 4)
    precious = torch.tensor([5, 17, 40])
    for layer in range(SPEC.num_layers):
        table.note(layer, 3, precious, torch.full((3,), 1.0))
    rollout = Rollout(model, SCRIPTS[1:], [3], dataclasses.replace(TIGHT, policy="oracle", sink_latents=0), [table])
    for _ in range(3):
        rollout.commit(rollout.draw())
    kept = rollout.caches[0].numbers(1).tolist()
    assert {5, 17, 40} <= set(kept)


def test_the_truth_can_stand_in_for_what_was_drawn(model: LoadedModel) -> None:
    truth = torch.randn(1, SPEC.chunk_latents, SPEC.latent_channels, SPEC.latent_height, SPEC.latent_width)
    told, free = (Rollout(model, SCRIPTS[1:], [3], TIGHT) for _ in range(2))
    told.commit(truth)
    free.commit(free.draw())
    assert not torch.allclose(told.draw(), free.draw(), atol=1e-3)
