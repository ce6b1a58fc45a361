"""Promise: under ``pyramid`` every layer has a budget of its own that never changes, as PyramidKV's formula says; all
together they take the tokens and bytes of equal budgets. The slow twin is a list of tokens per layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cache.config import CacheConfig, layer_budgets, promised_bytes
from cache.errors import CacheError
from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.scoring import attention_by_head, received_attention
from cache.storage import Slots
from model.spec import TEST_TINY
from model.transformer.attention import Watch

Build = Callable[..., KVCache]
LAYERS, CHUNK = 4, 6
SIZES: dict[str, Any] = {"policy": "pyramid", "layers": LAYERS, "budget": 12, "sink": 2, "recent": 2}


@pytest.mark.parametrize(
    ("layers", "budget", "sink", "recent"), [(6, 192, 0, 32), (30, 9360, 1560, 4680), (2, 7, 1, 1)]
)
def test_budgets_fall_evenly_and_add_up_to_the_uniform_ones(layers: int, budget: int, sink: int, recent: int) -> None:
    budgets = layer_budgets("pyramid", layers, budget, sink, recent)
    assert sum(budgets) == layers * budget
    mean = budget - sink - recent
    least, most = mean / 20, 2 * mean - mean / 20
    for layer, own in enumerate(budgets):  # PyramidKV's sequence, with beta of 20
        assert own == pytest.approx(sink + recent + most - layer * (most - least) / (layers - 1), abs=1)
    assert layer_budgets("pafu", layers, budget, sink, recent) == [budget] * layers
    assert layer_budgets("pyramid", 1, budget, sink, recent) == [budget]


def commit(cache: KVCache, chunk: int) -> list[list[float]]:
    """A chunk whose keys are its tokens' numbers; returns the evidence of each layer."""
    dice = torch.Generator().manual_seed(chunk)
    time = torch.arange(3 * chunk, 3 * chunk + 3).repeat_interleave(2).float()
    cache.begin_chunk(torch.stack((time, time * 0, time * 0), -1))
    rows = torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK).float().view(1, CHUNK, 1, 1).expand(1, CHUNK, 2, 4)
    for layer in range(cache.layers):
        cache.extend(layer, rows, -rows)
        cache.store(layer, rows)
    seen = [torch.rand(cache.tokens(layer) + CHUNK, generator=dice) for layer in range(cache.layers)]
    cache.commit(Evidence(strongest=seen))
    return [row.tolist() for row in seen]


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_each_layer_keeps_as_many_as_its_budget_and_the_best_of_them(small_cache: Build, kv_dtype: str) -> None:
    cache = small_cache(**SIZES, kv_dtype=kv_dtype)
    budgets = layer_budgets("pyramid", LAYERS, 12, 2, 2)
    assert len(set(budgets)) == LAYERS
    held: list[list[int]] = [[] for _ in budgets]
    for chunk in range(6):
        for layer, worth in enumerate(commit(cache, chunk)):
            tokens = held[layer] + list(range(chunk * CHUNK, (chunk + 1) * CHUNK))
            if len(tokens) > budgets[layer]:
                rivals = sorted(range(2, len(tokens) - 2), key=lambda at: -worth[at])[: budgets[layer] - 4]
                tokens = [tokens[at] for at in sorted([0, 1, *rivals, len(tokens) - 2, len(tokens) - 1])]
            held[layer] = tokens
            assert cache.retained_numbers()[layer].tolist() == tokens
            keys, values = cache.committed(layer)
            assert torch.allclose(keys[:, 0, 0], torch.tensor(tokens).float(), rtol=0.01)
            assert torch.equal(keys, -values)
        cache.check_integrity()
    assert [cache.tokens(layer) for layer in range(LAYERS)] == budgets


@pytest.mark.parametrize("kv_dtype", ["auto", "int4"])
def test_its_bytes_are_those_of_equal_budgets(small_cache: Build, kv_dtype: str) -> None:
    promise: dict[str, Any] = {"layers": LAYERS, "heads": 2, "head_dim": 4, "dtype": "float32", "kv_dtype": kv_dtype}
    assert small_cache(**SIZES, kv_dtype=kv_dtype).nbytes == promised_bytes(**promise, budget=12, chunk=CHUNK)
    config = CacheConfig.filled_in("pyramid", 6, 1, 1, most=3)
    assert config.most_seen(2, LAYERS) == max(layer_budgets("pyramid", LAYERS, 12, 2, 2)) > 12
    assert CacheConfig.filled_in("retrieval", 6, 1, 1, most=3).most_seen(2, LAYERS) == 12


def test_a_restored_cache_goes_on_bit_for_bit_and_one_of_equal_budgets_refuses_it(small_cache: Build) -> None:
    cache, twin, equal = small_cache(**SIZES), small_cache(**SIZES), small_cache(**{**SIZES, "policy": "attention"})
    for chunk in range(4):
        commit(cache, chunk)
    twin.restore(cache.snapshot())
    with pytest.raises(CacheError, match="tokens in a layer, this cache's budget is 12"):
        equal.restore(cache.snapshot())
    for chunk in range(4, 6):
        assert commit(cache, chunk) == commit(twin, chunk)
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layers_can_be_written_one_after_the_other(small_cache: Build) -> None:
    """As when a new prompt rewrites chunks."""
    cache, twin = small_cache(**SIZES), small_cache(**SIZES)
    for chunk in range(4):
        cache_row = commit(twin, chunk)
        if chunk < 3:
            commit(cache, chunk)
    for layer in range(LAYERS):
        with cache.alone(layer) as alone:
            alone.begin_chunk(torch.tensor([[9 + at // 2, 0.0, 0.0] for at in range(CHUNK)]))
            rows = torch.arange(3 * CHUNK, 4 * CHUNK).float().view(1, CHUNK, 1, 1).expand(1, CHUNK, 2, 4)
            alone.extend(0, rows, -rows)
            alone.store(0, rows)
            alone.commit(Evidence(strongest=[torch.tensor(cache_row[layer])]))
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_scores_that_are_not_finite_leave_the_ends_of_each_layer(small_cache: Build) -> None:
    cache = small_cache(**SIZES)
    for chunk in range(4):
        commit(cache, chunk)
    cache._store.scores[0, 0] = torch.nan
    commit(cache, 4)
    assert cache.fell_back
    for layer, budget in enumerate(layer_budgets("pyramid", LAYERS, 12, 2, 2)):
        numbers = cache.retained_numbers()[layer].tolist()
        newest = min(CHUNK, budget - 2)
        assert len(numbers) == budget and numbers[:2] == [0, 1]
        assert numbers[-newest:] == list(range(30 - newest, 30))


def test_a_token_counts_as_much_as_the_head_that_looks_at_it_most() -> None:
    dice = torch.Generator().manual_seed(2)
    q, keys, values = (torch.randn(n, 3, 8, generator=dice) for n in (6, 10, 10))
    by_head = torch.softmax(torch.einsum("shd,nhd->hsn", q, keys) / 8**0.5, -1).mean(1)
    watch = Watch(frozenset({"strongest"}), spec=TEST_TINY)
    watch.see(0, q, keys, values)
    seen = watch.evidence().strongest
    assert seen is not None and torch.allclose(seen[0], by_head.amax(0), atol=1e-6)
    assert torch.allclose(attention_by_head(q, keys).mean(0), received_attention(q, keys), atol=1e-7)


def test_slots_are_a_tensor_for_each_layer_in_one_allocation() -> None:
    slots = Slots([3, 3, 2], torch.arange(16).view(8, 2))
    assert slots[0:2, 1:].tolist() == [[[2, 3], [4, 5]], [[8, 9], [10, 11]]]
    assert slots[2, :1].tolist() == [[12, 13]] and slots[2:3, :, 1].tolist() == [[13, 15]]
    slots[2:3, 1] = torch.tensor([[7, 7]])
    assert slots.part(slice(1, 3))[1, 1].tolist() == [7, 7] and slots.nbytes == 16 * 8
    with pytest.raises(RuntimeError):
        slots[1:3]
