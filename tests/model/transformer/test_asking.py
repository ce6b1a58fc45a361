"""Promise: the asking head reads what it should, is small, and its policy uses it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cache.config import CacheConfig
from model.spec import SPECS, TEST_TINY
from model.stream.stream_state import StreamError
from model.stream.video_stream import VideoStream
from model.transformer.asking import ASKING_FILE, AskingHead
from model.transformer.dit import CausalDiT
from model.transformer.salience import HEAD_FILE, SalienceError, SalienceHead, load_head, save_head
from model.weights import LoadedModel, load_model, random_model, save_model, with_asking

DIGEST = "d" * 64
ASKED = CacheConfig.filled_in("asked", 2.0, None, None, most=1.0)


@pytest.fixture
def head() -> AskingHead:
    torch.manual_seed(0)
    return AskingHead(TEST_TINY)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(TEST_TINY, seed=0, dtype=torch.float32)


@pytest.mark.parametrize("spec", [spec for spec in SPECS.values() if spec.dim > 100], ids=lambda spec: spec.name)
def test_it_has_less_than_a_hundredth_of_the_transformers_numbers(spec) -> None:
    with torch.device("meta"):
        ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (AskingHead(spec), CausalDiT(spec)))
    assert ours < 0.01 * theirs


def test_it_reads_magnitudes_and_words(head: AskingHead) -> None:
    spec = TEST_TINY
    values = torch.randn(5, spec.num_heads, spec.head_dim)
    told = torch.randn(spec.text_len, spec.num_heads, spec.head_dim)
    asked = head.asked(1, values, told)
    assert asked.shape == (5,) and bool(((asked > 0) & (asked < 1)).all())
    assert not torch.allclose(head.asked(1, 3 * values, told), asked), "a value of thrice the size is another one"
    assert not torch.allclose(head.asked(1, values, told.flip(-1)), asked)
    assert torch.allclose(head.asked(1, values, told.flip(0)), asked), "the slot that fits best counts, wherever it is"
    assert torch.equal(head.logits(values.expand(2, -1, -1, -1), told.expand(2, -1, -1, -1))[1].sigmoid(), asked)


def test_it_comes_back_as_it_was_saved_and_belongs_to_one_student(head: AskingHead, tmp_path: Path) -> None:
    path = tmp_path / ASKING_FILE
    save_head(path, head, DIGEST, 7)
    loaded = load_head(path, TEST_TINY, DIGEST, AskingHead)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in head.state_dict().items())
    with pytest.raises(SalienceError, match="distil one for it"):
        load_head(path, TEST_TINY, "e" * 64, AskingHead)
    save_head(path, SalienceHead(TEST_TINY), DIGEST, 7)
    with pytest.raises(SalienceError, match="holds tensors"):
        load_head(path, TEST_TINY, DIGEST, AskingHead)


def test_a_model_takes_the_head_of_its_folder(head: AskingHead, model: LoadedModel, tmp_path: Path) -> None:
    save_model(tmp_path, TEST_TINY, model.dit, model.text, model.vae, trained_steps={}, dtype=torch.float32)
    bare = load_model(TEST_TINY, tmp_path)
    assert bare.asking is None
    save_head(tmp_path / ASKING_FILE, head, bare.digest, 1)
    assert load_model(TEST_TINY, tmp_path).asking is not None and not (tmp_path / HEAD_FILE).exists()
    assert with_asking(bare, tmp_path / ASKING_FILE).heads.salience is None


def test_without_a_head_the_policy_says_what_to_do(model: LoadedModel) -> None:
    with pytest.raises(StreamError, match="'asked' needs a head for asking, .* `pafu distill asking`"):
        VideoStream(dataclasses.replace(model, asking=None), "", 0, ASKED)
    with pytest.raises(StreamError, match="'asked' needs a head for salience, .* `pafu distill salience`"):
        VideoStream(dataclasses.replace(model, salience=None), "", 0, ASKED)


def test_a_stream_asks_its_prompt_about_everything_that_it_holds(model: LoadedModel) -> None:
    """The cache holds the highest answer of all prompts so far: a later prompt raises those of older tokens."""
    stream = VideoStream(model, "a red house", 3, dataclasses.replace(ASKED, budget_latents=9.0))
    for _ in range(2):
        stream.next_chunk()
    before = stream.cache.snapshot()["asked"]
    stream.set_prompt("a meadow at night")
    stream.next_chunk()
    for old, new in zip(before, stream.cache.snapshot()["asked"], strict=True):
        assert bool((new[: len(old)] >= old).all()) and bool((new[: len(old)] > old).any())
