"""Promise: stage ``decoder`` trains on the student's output and changes only how latents are decoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.codec.vae import from_pictures
from model.distill.recipe import repaint
from model.distill.stages import decoder_stage as stage_module
from model.distill.stages.decoder_stage import CROP, CROPS, decoder_stage, load_pairs
from model.spec import PAFU_MINI
from model.transformer.salience import HEAD_FILE
from model.weights import SHIPPED, LoadedModel, load_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model("pafu-mini", dtype=torch.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, model: LoadedModel) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    load_pairs(model, folder / "pairs", range(2))
    return folder


def test_the_student_makes_of_noised_views_nearly_the_views(model: LoadedModel, clips: Path) -> None:
    pairs = load_pairs(model, clips / "pairs", range(1))
    error = (pairs.made.float() - pairs.true.float()).square().mean()
    assert 1e-4 < error < 0.25 * pairs.true.float().square().mean()


def test_a_crop_of_latents_shows_its_crop_of_the_picture(model: LoadedModel, clips: Path) -> None:
    latents, pictures = load_pairs(model, clips / "pairs", range(1)).crops(3)
    assert latents.shape == (CROPS, PAFU_MINI.latent_channels, PAFU_MINI.latent_height, CROP)
    encoded = model.vae.encode(pictures)  # type: ignore[attr-defined]
    near = (encoded - latents).square().mean((1, 2, 3))
    wrong = (encoded.roll(1, 0) - latents).square().mean((1, 2, 3))
    assert (near[: CROPS // 2] < 0.5 * wrong[: CROPS // 2]).all()
    assert pictures.shape == from_pictures(torch.zeros(CROPS, 128, 128, 3, dtype=torch.uint8)).shape


def test_only_the_decoder_learns_and_the_student_keeps_its_head(
    model: LoadedModel, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "CLIPS", 1)
    monkeypatch.setattr(stage_module, "HELD_OUT", 1)
    decoder_stage(model, clips, 2).run()  # the critic is asked in the second step
    with Image.open(clips / "decoder.000002.png") as sheet:
        assert sheet.size[1] >= 3 * PAFU_MINI.height
    repaint(SHIPPED["pafu-mini"], clips, tmp_path)
    painted = load_model(PAFU_MINI, tmp_path, dtype=torch.float32)
    changed = {name for name, old in model.vae.state_dict().items() if not old.equal(painted.vae.state_dict()[name])}  # type: ignore[attr-defined]
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert all(old.equal(painted.dit.state_dict()[name]) for name, old in model.dit.state_dict().items())
    assert (tmp_path / HEAD_FILE).is_file() and painted.salience is not None
    assert json.loads((tmp_path / "model.json").read_text())["trained_steps"]["decoder"] == 2
