"""Promise: packed products make the same chunks as plain ones, and cannot be saved or trained by mistake."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.spec import TEST_WAN
from model.stream.video_stream import VideoStream
from model.transformer.packed import PackedLinear, can_pack, pack
from model.weights import LoadedModel, random_model

CONFIG = CacheConfig(policy="pafu", budget_latents=4, sink_latents=0, recent_latents=1, position_mode="relative")
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def both(dtype: torch.dtype) -> tuple[LoadedModel, LoadedModel]:
    plain = random_model(TEST_WAN, seed=0, dtype=dtype)
    packed = dataclasses.replace(plain, dit=copy.deepcopy(plain.dit))
    if not can_pack(packed.dit):
        pytest.skip(f"this processor has no packed products in {dtype}")
    pack(packed.dit)
    return plain, packed


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_packed_model_makes_the_chunks_of_the_plain_one(dtype: torch.dtype, error: float) -> None:
    plain, packed = both(dtype)
    assert isinstance(packed.dit.blocks[0].ffn[0], PackedLinear)
    one, other = (VideoStream(model, "a red house", 1, CONFIG) for model in (plain, packed))
    for _ in range(4):
        ours, theirs = other.next_chunk().latents.float(), one.next_chunk().latents.float()
        assert (ours - theirs).norm() < error * theirs.norm()


def test_packed_weights_are_not_held_twice_and_are_neither_saved_nor_trained() -> None:
    plain, packed = both(torch.float32)
    sizes = [sum(parameter.numel() for parameter in model.dit.parameters()) for model in (plain, packed)]
    assert sizes[1] < sizes[0] / 2
    with pytest.raises(RuntimeError, match="only for serving"):
        packed.dit.state_dict()
    x = torch.randn(1, 5, TEST_WAN.dim, requires_grad=True)
    with pytest.raises(RuntimeError, match="only for serving"), torch.enable_grad():
        packed.dit.blocks[0].ffn(x)
