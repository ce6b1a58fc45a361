"""Promise: the student learns to draw the truth over pasts that are its own, and remembers through fog."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.distill.data.dataset import CHUNKS, Clips
from model.distill.data.holdout import reserved
from model.distill.data.script import Script
from model.distill.data.world import CHUNK_LATENTS, FOG
from model.distill.stages import pasts
from model.distill.stages.flow_stages import networks, student_loss
from model.distill.stages.pasts import build_pasts, drawn_clip
from model.spec import PAFU_MINI
from model.weights import load_model
from model.words.grammar import describe
from model.words.text import phrase_ids

DRAWN = [drawn_clip(np.random.default_rng((1, number))) for number in range(60)]


def test_what_the_student_draws_was_in_view_while_the_past_was_true() -> None:
    for drawn in DRAWN:
        if drawn.true_chunks is not None:
            views = np.array(Script.of_clip(drawn.clip, PAFU_MINI).views(PAFU_MINI))
            true, own = np.split(views, [drawn.true_chunks * CHUNK_LATENTS])
            assert len(own) and true.min() <= own.min() and own.max() <= true.max()


def test_a_prompt_says_fog_exactly_while_it_is_there() -> None:
    foggy = [drawn for drawn in DRAWN if drawn.true_chunks is None]
    assert 15 < len(foggy) < 45
    for drawn in foggy:
        segments = drawn.clip.segments
        assert [describe(each.prompt).weather == "fog" for each in segments] == [
            each.weather == FOG for each in segments
        ]
        assert segments[-1].weather != FOG and segments[-1].first_chunk < CHUNKS


def test_no_reserved_prompt_is_trained_on() -> None:
    ids = [phrase_ids(each.prompt, PAFU_MINI.text_len) for drawn in DRAWN for each in drawn.clip.segments]
    assert not bool(reserved(torch.stack(ids)).any())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run") / "pasts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pasts, "SHARD", 4)
        patch.setattr(pasts, "SIDE_BY_SIDE", 4)
        build_pasts(folder, replace(load_model(PAFU_MINI.at(256, 128), dtype=torch.float32), salience=None), 4)
    return folder


def test_the_first_chunks_of_a_past_are_true_and_later_ones_are_the_students(built) -> None:
    rows = load_file(built / "clips-00000.safetensors")
    differ = (rows["past"] != rows["latents"]).flatten(2).any(2)
    for number, row in enumerate(differ):
        true = drawn_clip(np.random.default_rng((pasts.PAST_SEED, number))).true_chunks
        assert row.tolist() == [true is not None and frame >= true * CHUNK_LATENTS for frame in range(len(row))]
    assert differ.any() and not differ.all()


def test_the_student_sees_the_past_and_learns_the_truth(built) -> None:
    batch, modules = Clips(built).batch(0, 3), networks()
    assert batch.past is not None

    def loss(past: torch.Tensor | None) -> float:
        return float(
            student_loss(modules, replace(batch, past=past), torch.Generator().manual_seed(3))["loss"].detach()
        )

    torch.manual_seed(0)
    for parameter in modules.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    assert loss(batch.past) == loss(batch.past.clone()) != loss(torch.zeros_like(batch.past))
