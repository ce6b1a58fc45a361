"""Promise: a worker uses the configured salience head, and refuses to start with another student's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from model.spec import PAFU_MINI
from model.transformer.salience import SalienceHead, save_head
from model.weights import load_model as load_weights
from server.ipc.messages import CacheChoice, Configure, Parts
from server.worker.generator import ModelGenerator, StartError, load_model
from server.worker.loop import check_policy

LEARNED = CacheChoice(policy="pafu", budget_latents=4, sink_latents=0, recent_latents=1)


def test_the_head_that_is_named_serves_the_learned_policies(tmp_path: Path) -> None:
    head = tmp_path / "mine.safetensors"
    save_head(head, SalienceHead(PAFU_MINI), load_weights(PAFU_MINI).digest, 1)
    model, words = load_model("pafu-mini", None, "cpu", str(head))
    assert model.salience is not None and words == "shipped with pafu"
    ModelGenerator(model, words, "cpu", {}).open("a meadow", 1, LEARNED)


def test_what_weights_without_heads_cannot_serve_is_told_before_anybody_asks() -> None:
    model, words = load_model("pafu-mini", None, "cpu")
    assert ModelGenerator(model, words, "cpu", {}).lacking == {}
    headless = ModelGenerator(dataclasses.replace(model, salience=None), words, "cpu", {})
    assert set(headless.lacking) == {"salience", "pafu", "asked"}
    with pytest.raises(ValueError) as refused:
        headless.open("a meadow", 1, LEARNED)
    assert str(refused.value) == headless.lacking["pafu"]


def test_a_head_of_another_student_keeps_the_worker_from_starting(tmp_path: Path) -> None:
    head = tmp_path / "theirs.safetensors"
    save_head(head, SalienceHead(PAFU_MINI), "e" * 64, 1)
    with pytest.raises(StartError, match="a salience head of student 'eeeeeeeeeeee', this student has"):
        load_model("pafu-mini", None, "cpu", str(head))


CALLED = {
    "weights": "PAFU_WEIGHTS",
    "salience_head": "--salience-head",
    "text_encoder": "PAFU_TEXT_ENCODER",
    "vae": "v",
}


@pytest.mark.parametrize("model", ["pafu-mini", "test-tiny"])
def test_a_head_that_is_not_there_is_the_fault_of_its_own_setting(model) -> None:
    with pytest.raises(StartError, match="^--salience-head: /no/head is missing"):
        load_model(model, None, "cpu", "/no/head", called=CALLED)


def test_a_folder_without_weights_is_the_fault_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="^PAFU_WEIGHTS: .*model.json is missing"):
        load_model("pafu-mini", str(tmp_path), "cpu", called=CALLED)


def test_parts_of_a_model_that_has_its_own_are_refused_by_name() -> None:
    with pytest.raises(StartError, match="^v: model 'pafu-mini' uses its own"):
        load_model("pafu-mini", None, "cpu", parts=Parts(vae="/weights/taew"), called=CALLED)


def test_a_policy_that_the_weights_cannot_serve_ends_the_start_under_its_name(pattern, monkeypatch) -> None:
    generator = pattern.PatternGenerator("test-tiny")

    def refuse(*order):
        raise ValueError("no salience head")

    monkeypatch.setattr(generator, "open", refuse)
    chosen = Configure(
        model="", weights=None, device="cpu", threads=1, cache_room_bytes=0, beat_seconds=1, usual=LEARNED
    )
    check_policy(generator, chosen)  # the model's own: whoever asks for another may be served
    with pytest.raises(StartError, match="^PAFU_CACHE_POLICY: no salience head"):
        check_policy(generator, msgspec.structs.replace(chosen, called={"cache_policy": "PAFU_CACHE_POLICY"}))
