"""Promise: the salience head is small and loads only with its own student."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.spec import PAFU_MINI, TEST_TINY, WAN_1_3B, WAN_14B, ModelSpec
from model.transformer.dit import CausalDiT
from model.transformer.salience import ABOUT, HEAD_FILE, SalienceError, SalienceHead, load_head, save_head
from model.weights import SHIPPED, WeightsError, load_model, random_model, save_model

DIGEST = "d" * 64


@pytest.fixture
def head() -> SalienceHead:
    torch.manual_seed(0)
    return SalienceHead(TEST_TINY)


@pytest.mark.parametrize("spec", [PAFU_MINI, WAN_1_3B, WAN_14B], ids=lambda spec: spec.name)
def test_a_head_has_less_than_a_hundredth_of_its_students_parameters(spec: ModelSpec) -> None:
    with torch.device("meta"):
        ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (SalienceHead(spec), CausalDiT(spec)))
    assert ours < 0.01 * theirs


def test_layers_have_heads_of_their_own(head: SalienceHead) -> None:
    keys, values = torch.randn(2, 5, 2, 24), torch.randn(2, 5, 2, 24)
    scores = head(keys, values)
    assert scores.shape == (2, 5) and bool(((scores > 0) & (scores < 1)).all())
    keys[1] += 1
    moved = head(keys, values)
    assert torch.equal(moved[0], scores[0]) and not torch.equal(moved[1], scores[1])
    values[0] = torch.randn(5, 2, 24)
    assert not torch.equal(head(keys, values)[0], scores[0])


def test_a_head_comes_back_as_it_was_saved(head: SalienceHead, tmp_path: Path) -> None:
    save_head(tmp_path / HEAD_FILE, head, DIGEST, 7)
    loaded = load_head(tmp_path / HEAD_FILE, TEST_TINY, DIGEST)
    keys = torch.randn(2, 5, 2, 24)
    assert torch.equal(loaded(keys, keys), head(keys, keys))


@pytest.mark.parametrize(
    ("spec", "digest", "message"),
    [
        (PAFU_MINI, DIGEST, "a salience head of model 'test-tiny', this student has 'pafu-mini'"),
        (TEST_TINY, "e" * 64, "a salience head of student 'dddddddddddd', this student has 'eeeeeeeeeeee'"),
        (dataclasses.replace(TEST_TINY, num_layers=3), DIGEST, r"needs \{'weight1': \(3, 96, 4\)"),
    ],
)
def test_a_head_of_another_student_is_refused(
    head: SalienceHead, tmp_path: Path, spec: ModelSpec, digest: str, message: str
) -> None:
    save_head(tmp_path / HEAD_FILE, head, DIGEST, 7)
    with pytest.raises(SalienceError, match=message):
        load_head(tmp_path / HEAD_FILE, spec, digest)


def test_a_file_that_is_no_head_is_refused(head: SalienceHead, tmp_path: Path) -> None:
    path = tmp_path / HEAD_FILE
    with pytest.raises(SalienceError, match="is missing: train a head"):
        load_head(path, TEST_TINY, DIGEST)
    save_head(path, head, DIGEST, 7)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(SalienceError, match="is no salience head"):
        load_head(path, TEST_TINY, DIGEST)
    save_file(tensors, path, {ABOUT: "no json"})
    with pytest.raises(SalienceError, match="truncated or no safetensors file"):
        load_head(path, TEST_TINY, DIGEST)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SalienceError, match="truncated or no safetensors file"):
        load_head(path, TEST_TINY, DIGEST)


def test_a_flipped_byte_is_found(head: SalienceHead, tmp_path: Path) -> None:
    save_head(tmp_path / "own", head, DIGEST, 7)
    shipped, digest = SHIPPED["pafu-mini"], load_model("pafu-mini").digest
    for file, spec, student in ((tmp_path / "own", TEST_TINY, DIGEST), (shipped / HEAD_FILE, PAFU_MINI, digest)):
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        (tmp_path / "flipped").write_bytes(data)
        with pytest.raises(SalienceError, match="damaged"):
            load_head(tmp_path / "flipped", spec, student)


def test_a_model_takes_the_head_of_its_folder_or_the_one_that_is_named(head: SalienceHead, tmp_path: Path) -> None:
    made = random_model(TEST_TINY, seed=1, dtype=torch.float32)
    save_model(tmp_path, TEST_TINY, made.dit, made.text, made.vae, trained_steps={})
    bare = load_model(TEST_TINY, tmp_path)
    assert bare.salience is None
    save_head(tmp_path / "other.safetensors", head, bare.digest, 7)
    named = load_model(TEST_TINY, tmp_path, head=tmp_path / "other.safetensors")
    assert named.salience is not None and named.salience.weight1.dtype == named.dtype
    save_head(tmp_path / HEAD_FILE, head, "f" * 64, 7)
    with pytest.raises(WeightsError, match="a salience head of student 'ffffffffffff'"):
        load_model(TEST_TINY, tmp_path)
