"""Promise: in pafu-mini 2's training, prompts match pictures, the average follows the weights, and bad batches are
skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.distill.mini2.drawing import draw_clip, words_of_clip
from model.distill.mini2.run import Average, TimedRun, Twin
from model.distill.world2 import random_clip
from model.distill.world2.size import CHUNK_LATENTS, HEIGHT, MAX_SPEED, PICTURES_PER_LATENT, WIDTH
from model.spec import PAFU_MINI_2

CHUNKS = 2


def test_a_drawn_clip_has_a_view_and_its_depth_for_every_latent_frame() -> None:
    drawn = draw_clip(np.random.default_rng(3), CHUNKS)
    frames = CHUNKS * CHUNK_LATENTS
    assert drawn.views.shape == (frames, HEIGHT, WIDTH, 3) and drawn.views.dtype == np.uint8
    assert drawn.parallax.shape == (frames, HEIGHT, WIDTH)
    assert drawn.views.std() > 10, "something is drawn"


def test_the_words_of_a_clip_tell_where_its_camera_goes() -> None:
    rng = np.random.default_rng(4)
    clip = random_clip(rng, CHUNKS)
    words = words_of_clip(rng, clip)
    assert words["ids"].shape[:2] == (CHUNKS, PAFU_MINI_2.text_len) and len(words["must"]) == CHUNKS
    assert not words["must"][0], "the first chunk follows none"
    assert np.abs(words["moves"]).max() <= 1 and np.allclose(words["moves"] * MAX_SPEED, clip.speeds)
    went = words["offsets"][1:] - words["offsets"][:-1]
    smooth = words["jumps"][1:] == 0
    expected = PICTURES_PER_LATENT * MAX_SPEED * words["moves"][1:]
    assert smooth.any() and np.abs(went - expected)[smooth].max() <= 1, "no jump: the camera went as far as its speed"


def test_an_average_follows_fast_at_first_and_slowly_later() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, 0.9)
    start = float(average.module.weight)
    with torch.no_grad():
        module.weight += 1
    average.update()
    assert float(average.module.weight) - start == pytest.approx(10 / 11, abs=1e-5), "early weights are soon forgotten"
    with torch.no_grad():
        module.weight += 1
    for _ in range(300):
        average.update()
    assert float(average.module.weight) - start == pytest.approx(2, abs=1e-3)


def test_a_twin_in_another_dtype_takes_over_weights_and_hands_back_gradients() -> None:
    master = nn.Linear(2, 1)
    twin = Twin(master, torch.bfloat16)
    with torch.no_grad():
        master.weight.fill_(3.0)
    twin.refresh()
    assert twin.module.weight.dtype == torch.bfloat16 and bool((twin.module.weight == 3).all())
    twin.module(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    twin.collect()
    assert master.weight.grad is not None and master.weight.grad.tolist() == [[1.0, 1.0]]


def test_a_step_whose_gradients_are_no_numbers_changes_no_weight(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    run = TimedRun("test", 1.0, tmp_path, lambda step, _: losses(step), [torch.optim.SGD([weight], lr=0.5)], [weight])

    def losses(step: int) -> dict[str, torch.Tensor]:
        loss = (weight * (float("nan") if step == 0 else 1.0)).sum()
        loss.backward()
        return {"loss": loss}

    assert "bad" in run._one_step(0.0) and weight.item() == 1.0
    assert "loss" in run._one_step(0.0) and weight.item() == pytest.approx(0.5, abs=1e-4)
