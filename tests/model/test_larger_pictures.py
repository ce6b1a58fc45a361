"""Promise: pafu-mini also draws 512x256, in more detail, with the same latents, memory, heads and camera."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from model.camera import CameraControl
from model.codec.vae import from_pictures
from model.distill.data.clips import random_clip
from model.distill.data.world import render_views
from model.distill.evaluation.evaluate import served_cache
from model.distill.evaluation.judge import shift_between
from model.spec import PAFU_MINI, SpecError
from model.stream.video_stream import VideoStream
from model.weights import SHIPPED, LoadedModel, WeightsError, load_model

LARGE = PAFU_MINI.at(512, 256)


@pytest.fixture(scope="module")
def models() -> dict[int, LoadedModel]:
    torch.set_num_threads(1)
    return {spec.detail: load_model(spec, dtype=torch.float32) for spec in (PAFU_MINI, LARGE)}


def reduced(pictures: np.ndarray) -> np.ndarray:
    count, height, width, _ = pictures.shape
    return pictures.reshape(count, height // 2, 2, width // 2, 2, 3).mean((2, 4))


def test_its_latents_tokens_and_heads_are_those_of_the_small_pictures(models: dict[int, LoadedModel]) -> None:
    small, large = models[1], models[2]
    for name in ("tokens_per_latent", "latent_width", "pixels_per_column", "view_width", "tokens_per_chunk"):
        assert getattr(LARGE, name) == getattr(PAFU_MINI, name)
    assert large.salience is not None and large.asking is not None
    assert large.student == small.student and large.digest != small.digest


def test_the_same_seed_shows_the_same_place_and_the_camera_moves_by_the_same_share(
    models: dict[int, LoadedModel],
) -> None:
    shown = {}
    for detail, model in models.items():
        stream = VideoStream(
            model, "a meadow by day, a red mill with a yellow roof in the middle", 3, served_cache(model)
        )
        still = stream.next_chunk()
        stream.set_camera(CameraControl(speed=8))
        shown[detail] = np.concatenate([still.pictures, *(stream.next_chunk().pictures for _ in range(2))])
    assert shown[2].shape == (36, 256, 512, 3)
    assert np.abs(reduced(shown[2]) - shown[1]).mean() < 8
    for pictures in (shown[1], reduced(shown[2])):
        steps = [shift_between(before, after) for before, after in pairwise(pictures[28:36])]
        assert steps == [8] * 7, "also between two views"


@pytest.mark.parametrize("detail", [1, 2])
def test_the_autoencoder_shows_no_block_borders(models: dict[int, LoadedModel], detail: int) -> None:
    """The step between neighboring pixels at borders of latents relative to that inside, compared with the truth."""
    vae, side = models[detail].vae, 16 * detail
    views = from_pictures(torch.from_numpy(render_views(random_clip(np.random.default_rng(11), 4), detail)))

    def seams(pictures: torch.Tensor) -> float:
        steps = pictures.float().mean(1).diff(dim=-1).abs().mean((0, 1))
        return float(steps[side - 1 :: side].mean() / steps[side // 2 - 1 :: side].mean())

    with torch.inference_mode():
        drawn = vae.view(vae.encode(views))  # type: ignore[attr-defined]
    assert seams(drawn) < 1.3 * seams(views)
    error = (drawn.clamp(-1, 1) - views).square().mean()
    assert 10 * torch.log10(4 / error) > 26, "decibels"


def test_a_stream_begins_with_a_large_picture(models: dict[int, LoadedModel]) -> None:
    picture = render_views(random_clip(np.random.default_rng(5), 1), 2)[0]
    stream = VideoStream(models[2], "a meadow by day", 3, served_cache(models[2]))
    stream.begin_with(torch.from_numpy(picture))
    assert np.abs(stream.next_chunk().pictures[0].astype(float) - picture).mean() < 12


def test_other_sizes_and_weights_without_this_decoder_are_refused_and_the_error_lists_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="256x128 or 512x256"):
        PAFU_MINI.at(384, 192)
    shutil.copytree(SHIPPED["pafu-mini"], tmp_path / "old")
    description = tmp_path / "old" / "model.json"
    lines = [line for line in description.read_text().splitlines() if "vae.512x256.safetensors" not in line]
    description.write_text("\n".join(lines).replace('",\n  }', '"\n  }'))
    with pytest.raises(WeightsError, match="vae.512x256.safetensors: choose size 256x128 for these weights"):
        load_model(LARGE, tmp_path / "old")
    load_model(PAFU_MINI, tmp_path / "old")
