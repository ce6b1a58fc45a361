from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.storage import Geometry

LAYERS, HEADS, HEAD_DIM, CHUNK, FRAME = 2, 2, 4, 6, 2  # a chunk is three latent frames of two tokens


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_cache() -> Callable[..., KVCache]:
    """A small cache; any argument of KVCache and Geometry may be overridden."""

    def build(**overrides: Any) -> KVCache:
        arguments = {
            "budget": 10,
            "policy": "sink_window",
            "sink": 2,
            "recent": 4,
            "position_range": None,
        }
        geometry = {
            "layers": LAYERS,
            "heads": HEADS,
            "head_dim": HEAD_DIM,
            "chunk": CHUNK,
            "dtype": torch.float32,
        }
        geometry |= {name: overrides.pop(name) for name in geometry.keys() & overrides.keys()}
        return KVCache(Geometry(**geometry), **{**arguments, **overrides})

    return build


def evidence_for(cache: KVCache, index: int, salience: torch.Tensor | None = None) -> Evidence:
    """Random evidence for the cache's policy; ``salience`` (layers, chunk) is always set."""
    generator = torch.Generator().manual_seed(1000 + index)
    counts = [cache.tokens(layer) + cache.chunk for layer in range(cache.layers)]
    asked = {
        "salience": torch.rand(cache.layers, cache.chunk, generator=generator),
        "attention": [torch.rand(n, generator=generator) for n in counts],
        "strongest": [torch.rand(n, generator=generator) for n in counts],
        "affinity": [torch.rand(n, generator=generator) for n in counts],
        "expected": [torch.rand(n, generator=generator) for n in counts],
        "asked": [torch.rand(n, generator=generator) for n in counts],
        "told": [torch.rand(n, generator=generator) for n in counts],
        "future": [torch.rand(n, generator=generator) for n in counts],
    }
    given = {name: asked[name] for name in cache.needs}
    return Evidence(**{**given, **({} if salience is None else {"salience": salience})})  # type: ignore[arg-type]


@pytest.fixture
def put_chunk() -> Callable[..., torch.Tensor]:
    """Write chunk ``index`` into every layer and commit it with random evidence; returns its keys (layers, chunk, H,
    D)."""

    def put(cache: KVCache, index: int, scores: torch.Tensor | None = None) -> torch.Tensor:
        first = index * CHUNK // FRAME
        time = torch.arange(first, first + CHUNK // FRAME).repeat_interleave(FRAME).float()
        column = torch.arange(CHUNK).float() + 0.25 * index
        cache.begin_chunk(torch.stack((time, torch.zeros(CHUNK), column), dim=-1))
        generator = torch.Generator().manual_seed(index)
        keys = torch.randn(LAYERS, CHUNK, HEADS, HEAD_DIM, generator=generator)
        for layer in range(LAYERS):
            cache.extend(layer, keys[None, layer], keys[None, layer] + 1)
            cache.store(layer, keys[None, layer])
        cache.commit(evidence_for(cache, index, scores))
        return keys

    return put
