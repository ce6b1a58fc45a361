"""Promise: block borders, blur and error of a decoder's pictures are measured, beside the world's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.distill import recipe
from model.distill.stages import looks


def test_borders_blur_and_error_are_seen() -> None:
    truth = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    blurred = F.avg_pool2d(truth, 3, 1, 1)
    blocky = blurred + 0.2 * ((torch.arange(64) // 16) % 2)
    true, soft, blocks = (looks.look_of("", each, truth, 16) for each in (truth, blurred, blocky))
    assert true.psnr == float("inf") or true.psnr > 100
    assert soft.psnr is not None and blocks.psnr is not None and 5 < blocks.psnr < soft.psnr < 40
    assert soft.sharpness < 0.3 * true.sharpness
    assert blocks.border > 1.5 * blocks.inside and soft.border == pytest.approx(soft.inside, rel=0.3)


def test_the_stage_measures_each_size_and_draws_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (
        ("CLIPS", 2),
        ("PREDICTED", range(900, 901)),
        ("PROMPTS", 1),
        ("SHEET", (3,)),
        ("GENERATED", (1,)),
    ):
        monkeypatch.setattr(looks, name, few)
    recipe.run("looks", tmp_path)
    found = json.loads((tmp_path / "looks.json").read_text())
    assert [each["what"] for each in found[::4]] == ["256x128: the world", "512x256: the world"]
    assert all(each["psnr"] > 25 for each in found if "true latents" in each["what"])
    with Image.open(tmp_path / "looks.512x256.png") as sheet:
        assert sheet.size[1] >= 3 * 256
