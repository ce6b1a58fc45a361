"""Promise: a worker takes the salience head that it was told, and cannot start with one of another student."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.salience import SalienceHead, save_head
from model.spec import PAFU_MINI
from model.weights import load_model as load_weights
from server.ipc.messages import CacheChoice
from server.worker.generator import ModelGenerator, StartError, load_model

LEARNED = CacheChoice(policy="pafu", budget_latents=4, sink_latents=0, recent_latents=1)


def test_the_head_that_is_named_serves_the_learned_policies(tmp_path: Path) -> None:
    head = tmp_path / "mine.safetensors"
    save_head(head, SalienceHead(PAFU_MINI), load_weights(PAFU_MINI).digest, 1)
    model, words = load_model("pafu-mini", None, "cpu", str(head))
    assert model.salience is not None and words == "shipped with pafu"
    ModelGenerator(model, words, "cpu", {}).open("a meadow", 1, LEARNED)


def test_a_head_of_another_student_keeps_the_worker_from_starting(tmp_path: Path) -> None:
    head = tmp_path / "theirs.safetensors"
    save_head(head, SalienceHead(PAFU_MINI), "e" * 64, 1)
    with pytest.raises(StartError, match="a salience head of student 'eeeeeeeeeeee', this student has"):
        load_model("pafu-mini", None, "cpu", str(head))
