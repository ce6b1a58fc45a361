"""Promise: each flow stage continues from the previous one and writes sample pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from model.codec.vae import StreamingVAE
from model.distill.data.captions import CHUNK_LATENTS
from model.distill.data.dataset import TRAIN_SEED, clip_of
from model.distill.stages import flow_stages
from model.distill.stages.flow_stages import student_stage, teacher_stage, words_stage
from model.distill.training.stage import Stage, saved_step, trained_weights
from model.spec import PAFU_MINI
from model.words.text import phrase_ids

CPU = torch.device("cpu")


def fake_clips(folder: Path, chunks: int, clips: int = 12) -> None:
    """Real captions with noise as latents: what is learned does not matter here."""
    folder.mkdir(parents=True)
    frames, generator = chunks * CHUNK_LATENTS, torch.Generator().manual_seed(1)
    prompts = [clip_of(TRAIN_SEED, index, 1).segments[0].prompt for index in range(clips)]
    ids = torch.stack([phrase_ids(prompt, PAFU_MINI.text_len).expand(chunks, -1, -1) for prompt in prompts])
    shape = (clips, frames, PAFU_MINI.latent_channels, PAFU_MINI.latent_height, PAFU_MINI.latent_width)
    rows = {
        "latents": torch.randn(shape, generator=generator).half(),
        "ids": ids.to(torch.uint8),
        "offsets": torch.zeros(clips, frames),
        "control": torch.zeros(clips, frames, 1),
        "lights": torch.zeros(clips, chunks, dtype=torch.uint8),
    }
    save_file(rows, folder / "clips-00000.safetensors")


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    fake_clips(tmp_path / "beginnings", 1)
    fake_clips(tmp_path / "clips", 2)
    vae = torch.nn.ModuleDict({"vae": StreamingVAE(PAFU_MINI)})
    Stage("vae", tmp_path, vae, [], lambda step: {}, 0).save(7)
    for name in ("WORDS", "TEACHER", "STUDENT"):  # the same lessons, smaller
        lessons = getattr(flow_stages, name)
        monkeypatch.setattr(flow_stages, name, tuple(dataclasses.replace(lesson, size=2) for lesson in lessons))
    monkeypatch.setattr(flow_stages, "SAMPLES", 1)
    return tmp_path


@pytest.mark.proof
def test_words_then_teacher_then_student(run_folder: Path) -> None:
    untrained = flow_stages.networks().state_dict()
    words_stage(run_folder, 1, CPU).run()
    started = trained_weights(run_folder, "words")
    assert any(not torch.equal(value, untrained[name]) for name, value in started.items())
    for name, stage in (("teacher", teacher_stage), ("student", student_stage)):
        made = stage(run_folder, 3, CPU)
        assert all(torch.equal(value, started[key]) for key, value in made.modules.state_dict().items())
        made.run()
        started = trained_weights(run_folder, name)
        assert saved_step(run_folder / f"{name}.checkpoint.safetensors") == 3
        with Image.open(run_folder / f"{name}.000003.png") as sheet:
            assert sheet.size[0] > 6 * PAFU_MINI.width and sheet.size[1] >= PAFU_MINI.height


def test_a_stage_without_the_one_before_says_what_to_run(run_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `pafu distill mini --stage teacher"):
        student_stage(run_folder, 1, CPU)
