from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cache.kv_cache import KVCache

LAYERS, HEADS, HEAD_DIM, CHUNK, FRAME = 2, 2, 4, 6, 2  # a chunk is three latent frames of two tokens


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_cache() -> Callable[..., KVCache]:
    """A small cache; any argument of KVCache may be overridden."""

    def build(**overrides: Any) -> KVCache:
        arguments = {
            "layers": LAYERS,
            "heads": HEADS,
            "head_dim": HEAD_DIM,
            "budget": 10,
            "chunk": CHUNK,
            "policy": "sink_window",
            "sink": 2,
            "recent": 4,
            "dtype": torch.float32,
            "position_range": None,
        }
        return KVCache(**{**arguments, **overrides})

    return build


@pytest.fixture
def put_chunk() -> Callable[..., torch.Tensor]:
    """Write chunk ``index`` into every layer and commit it; returns its keys (layers, chunk, H, D)."""

    def put(cache: KVCache, index: int, scores: torch.Tensor | None = None) -> torch.Tensor:
        first = index * CHUNK // FRAME
        time = torch.arange(first, first + CHUNK // FRAME).repeat_interleave(FRAME).float()
        column = torch.arange(CHUNK).float() + 0.25 * index
        cache.begin_chunk(torch.stack((time, torch.zeros(CHUNK), column), dim=-1))
        generator = torch.Generator().manual_seed(index)
        keys = torch.randn(LAYERS, CHUNK, HEADS, HEAD_DIM, generator=generator)
        for layer in range(LAYERS):
            cache.extend(layer, keys[None, layer], keys[None, layer] + 1)
        cache.commit(scores)
        return keys

    return put
