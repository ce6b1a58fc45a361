from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cache.kv_cache import KVCache
from model.spec import TEST_TINY_WAN, ModelSpec
from model.transformer.dit import CausalDiT
from model.transformer.passes import geometry_of


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def wan_spec() -> ModelSpec:
    return TEST_TINY_WAN


@pytest.fixture
def seeded_dit() -> Callable[[ModelSpec], CausalDiT]:
    """A DiT with random values in every parameter: zeros and ones would hide a misplaced bias or norm weight."""

    def build(spec: ModelSpec) -> CausalDiT:
        torch.manual_seed(7)
        dit = CausalDiT(spec).eval()
        with torch.no_grad():
            for parameter in dit.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return dit

    return build


@pytest.fixture
def new_cache() -> Callable[..., KVCache]:
    """A cache for a spec; budgets in latent frames."""

    def build(spec: ModelSpec, policy: str = "full", budget: int = 24, position_range: int | None = None) -> KVCache:
        return KVCache(
            geometry_of(spec, torch.float32, "cpu"),
            budget=budget * spec.tokens_per_latent,
            policy=policy,
            sink=0,
            recent=0,
            position_range=position_range,
        )

    return build
