"""Promise: fast passes equal the plain one, and a log says if they are unavailable."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cache.config import CacheConfig
from model.cost import kernels, speed
from model.spec import TEST_TINY, TEST_WAN
from model.stream.video_stream import VideoStream
from model.transformer.dit import Block, CausalDiT
from model.transformer.fp8 import Fp8Linear, why_not
from model.transformer.passes import Passes
from model.weights import LoadedModel, random_model
from server.cli.main import app

CONFIG = CacheConfig(policy="pafu", budget_latents=4, sink_latents=0, recent_latents=1, position_mode="relative")


@pytest.fixture
def model() -> LoadedModel:
    return random_model(TEST_TINY, seed=0, dtype=torch.float32)


def chunks(model: LoadedModel, count: int = 4) -> torch.Tensor:
    stream = VideoStream(model, "a red house", 1, CONFIG)
    return torch.stack([stream.next_chunk().latents for _ in range(count)])


def test_a_clean_pass_that_ends_with_the_last_keys_writes_what_a_whole_pass_writes(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened = chunks(model, 6)
    monkeypatch.setattr(CausalDiT, "write", CausalDiT.forward)
    assert torch.equal(chunks(model, 6), shortened)


def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_graph() -> None:
        raise RuntimeError("no graphs here\nand more")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    expected = chunks(model, 6)
    other = dataclasses.replace(model)
    other.passes.capturing = True  # as on a GPU
    with caplog.at_level(logging.WARNING, "pafu.model"):
        assert torch.equal(chunks(other, 6), expected)
    assert (other.passes.refused, other.passes.replays) == (1, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot capture CUDA graphs, passes run without them: no graphs here"
    ]


def test_one_product_for_q_k_and_v_holds_nothing_twice_and_leaves_gradients_to_the_parts() -> None:
    torch.manual_seed(0)
    dit = CausalDiT(TEST_WAN)
    attention = dit.blocks[0].self_attn
    x = torch.randn(1, 5, TEST_WAN.dim)
    with torch.no_grad():
        expected = attention.project(x)
        attention.fuse()
        for ours, theirs in zip(attention.project(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    whole = attention._together[0].weight
    assert attention.q.weight.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert set(attention.state_dict()) == set(CausalDiT(TEST_WAN).blocks[0].self_attn.state_dict())
    attention.v.weight.requires_grad_(True)
    attention.project(x)[2].sum().backward()
    assert attention.v.weight.grad is not None
    dit.to(torch.bfloat16)
    assert not attention._together, "the parts have moved, the product has not"


def test_weights_that_are_being_trained_are_left_alone() -> None:
    dit = CausalDiT(TEST_WAN)
    before = dit.blocks[0].self_attn.q.weight
    Passes(dit, None, TEST_WAN, torch.device("cpu"))
    assert dit.blocks[0].self_attn.q.weight is before


def test_compiled_blocks_are_compiled_once_for_all_of_them(model: LoadedModel) -> None:
    from torch._dynamo.utils import counters

    expected = chunks(model, 2)
    torch._dynamo.reset()
    counters.clear()
    halves = [torch.compile(half, dynamic=False, backend="eager") for half in Block.halves]
    for block in model.dit.each_block():
        block.halves = (halves[0], halves[1])
    torch.testing.assert_close(chunks(model, 2), expected, atol=1e-4, rtol=0)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


def test_fp8_products_are_near_and_a_device_without_them_is_told() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(32, 64), torch.randn(32), torch.randn(1, 7, 64)
    layer = Fp8Linear(weight, bias)
    stored = layer.weight8.float() * layer.scale.T
    assert 0 < float((stored - weight).norm() / weight.norm()) < 0.04
    assert layer.weight8.nbytes * 4 == weight.nbytes and x.shape[-1] == stored.shape[-1]
    assert why_not(torch.device("cpu")) == "a cpu has no FP8 products: fp8 needs a GPU of compute capability 8.9"


def test_a_suite_writes_every_row_and_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SIZE", 64)
    ways = (speed.Way("window", 3, "plain", 1), speed.Way("pafu", 3, "fp8", 1))
    monkeypatch.setattr(speed, "WAYS", ways)
    command = ["bench", "--suite", "gpu", "--model", "test-tiny", "--device", "cpu", "--out", str(tmp_path), "--json"]
    ran = CliRunner().invoke(app, command)
    found = json.loads((tmp_path / "speed.json").read_text())
    assert ran.exit_code == 0 and json.loads(ran.stdout) == found, ran.output
    (row,) = found["rows"]
    assert row["pictures_per_s_transformer"] > row["pictures_per_s_end_to_end"] > 0
    assert row["transformer_tflop"] == pytest.approx(speed.work(TEST_TINY, 3) / 1e12)
    assert found["left_out"] == ["pafu 3 fp8: " + str(why_not(torch.device("cpu")))]
    assert found["kernels"]["window 3 plain"] is not None and (tmp_path / "profile_plain.txt").stat().st_size > 500
