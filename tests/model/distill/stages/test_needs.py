"""Promise: distilling at Wan's size fits into 80 GB, and the count on the meta device is correct."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cache.config import CacheConfig
from model.cost.memory import LiveBytes
from model.distill.stages import needs
from model.distill.stages.long_stage import LongSettings, LongTuning
from model.distill.stages.needs import long_bytes, salience_bytes
from model.distill.stages.salience_stage import DistillError, SalienceDistillation, SalienceSettings, teacher_salience
from model.distill.training import dreams
from model.spec import SELF_FORCING, TEST_WAN, WAN_1_3B
from model.stream.video_stream import VideoStream
from model.transformer.salience import HEAD_FILE
from model.weights import random_model, with_head

CARD = 80e9 * 0.95
SMALL = TEST_WAN.at(48, 32)
PRUNED = CacheConfig(policy="window", budget_latents=4, sink_latents=0, recent_latents=1, position_mode="relative")


@pytest.mark.proof
def test_a_head_for_wan_is_distilled_on_80_gb() -> None:
    told = salience_bytes(WAN_1_3B, SELF_FORCING, SalienceSettings(guidance=5.0))
    assert told["weights"] > 2 * 2 * 1_418_996_800 and told["lessons"] > 5.6 * 2**30, "two models, and a full cache"
    assert told["at most"] < CARD / 2
    assert needs._step(SELF_FORCING, _head(), SalienceSettings(tokens=32_760), torch.bfloat16) > 10 * told["a step"]


def _head() -> needs.SalienceHead:
    with torch.device("meta"):
        return needs.SalienceHead(SELF_FORCING)


def test_long_tuning_of_wan_fits_80_gb_however_long_with_a_former_self_of_the_trained_range() -> None:
    settings = LongSettings(cache=PRUNED, chunks=80, streams=1)
    assert long_bytes(SELF_FORCING, settings)["at most"] > CARD, "everything of 80 chunks does not fit"
    told = long_bytes(SELF_FORCING, dataclasses.replace(settings, remembered=18.0))
    assert told["weights"] > 20 * 1_418_996_800 and told["at most"] < CARD


def test_what_is_counted_of_a_target_is_what_it_takes(tmp_path: Path) -> None:
    teacher, settings = random_model(SMALL, 1, dtype=torch.float32), SalienceSettings()
    script = dreams.scripts(SMALL, _prompts(tmp_path), 7)(0)
    latents = torch.randn(21, SMALL.latent_channels, SMALL.latent_height, SMALL.latent_width)
    teacher_salience(teacher, script, latents, settings, 1)  # its words are encoded once
    with LiveBytes() as live:
        teacher_salience(teacher, script, latents, settings, 1)
    assert live.peak == pytest.approx(needs._whole_clip(SMALL, _on_meta(), settings, False), rel=0.1)


def _on_meta() -> needs.CausalDiT:
    with torch.device("meta"):
        return needs.CausalDiT(SMALL)


def test_a_graph_grows_layer_by_layer_as_it_is_counted() -> None:
    settings = LongSettings(cache=PRUNED, streams=1)
    one, two, four = (needs._gradient(dataclasses.replace(SMALL, num_layers=n), settings) for n in (1, 2, 4))
    assert four == pytest.approx(one + 3 * (two - one), rel=0.05)


def _prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("a cat walks on the grass\na storm over the sea\n")
    return path


def test_a_wan_shaped_student_gets_a_head_from_drawn_tokens_and_targets_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = (random_model(SMALL, seed, dtype=torch.float32) for seed in (1, 2))
    settings = SalienceSettings(clips=2, held_out=1, steps=2, batch=2, dream_steps=1, tokens=16)
    out, prompts = tmp_path / "run", _prompts(tmp_path)
    made = []
    monkeypatch.setattr(
        "model.distill.stages.salience_stage.teacher_salience",
        lambda *given: made.append(1) or teacher_salience(*given),  # type: ignore[func-returns-value]
    )
    stage = SalienceDistillation(teacher, student, out, settings, prompts)
    stage.run()
    assert len(made) == 3 and stage._lesson(0).keys.shape[:2] == (SMALL.num_layers, 16)
    assert len(made) == 3, "a lesson that is made anew asks the teacher nothing"
    stream = VideoStream(
        with_head(student, out / HEAD_FILE), "a cat", 1, CacheConfig.filled_in("pafu", 3.0, None, None, 3)
    )
    assert [len(stream.next_chunk().pictures) for _ in range(3)] == [9, 12, 12]


def test_blocks_that_are_run_again_give_the_same_gradient(tmp_path: Path) -> None:
    settings, gradients = LongSettings(cache=PRUNED, chunks=2, streams=1, steps=1, remembered=4.0), []
    for recomputes in (False, True):
        tuning = LongTuning(random_model(SMALL, 2, dtype=torch.float32), tmp_path, settings, _prompts(tmp_path))
        dit = tuning._student.dit.requires_grad_(True)
        dit.recomputes = recomputes
        tuning._loss(0)
        gradients.append([each.grad for each in dit.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_policy_that_recalls_from_host_memory_cannot_be_tuned_for() -> None:
    with pytest.raises(DistillError, match="recalls tokens from host memory, .* choose another policy"):
        LongSettings(cache=CacheConfig.filled_in("retrieval", 4, None, None, most=3))
