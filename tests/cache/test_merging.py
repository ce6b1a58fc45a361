"""Promise: policy ``merging`` adds what it evicts to the most similar kept token, as D2O's formula says; nothing else
of the cache changes. The slow twins compute token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cache.config import CacheConfig
from cache.errors import PolicyError
from cache.kv_cache import KVCache
from cache.policy import Evidence, Merge
from cache.registry import policy_named
from cache.storage import Geometry, Rows, added_up
from tests.cache.test_policy import candidates

Build = Callable[..., KVCache]


def test_each_dropped_token_goes_to_the_most_similar_kept_one_if_it_is_similar_enough() -> None:
    """D2O's formula, token by token: weights e^u for the dropped, e for the kept, divided by their sum."""
    dice = torch.Generator().manual_seed(4)
    keys, worth = torch.randn(20, 2, 4, generator=dice), torch.rand(20, generator=dice)
    choice = policy_named("merging").keep(candidates(20, keys=keys, scores=worth))
    kept = choice.indices.tolist()
    dropped = [token for token in range(20) if token not in kept]
    flat = [keys[token].flatten().tolist() for token in range(20)]

    def cosine(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(flat[a], flat[b], strict=True)) / (math.hypot(*flat[a]) * math.hypot(*flat[b]))

    nearest = {token: max(kept, key=lambda other: cosine(token, other)) for token in dropped}
    similarity = {token: cosine(token, nearest[token]) for token in dropped}
    threshold = sum(similarity.values()) / len(dropped)
    merged = [token for token in dropped if similarity[token] >= threshold]
    assert 0 < len(merged) < len(dropped)
    total = {k: math.e + sum(math.exp(similarity[t]) for t in merged if nearest[t] == k) for k in kept}
    weights = {k: math.e / total[k] for k in kept} | {t: math.exp(similarity[t]) / total[nearest[t]] for t in merged}
    assert choice.merge is not None
    assert choice.merge.onto.tolist() == [nearest.get(token, token) for token in range(20)]
    assert choice.merge.weights.tolist() == pytest.approx([weights.get(token, 0.0) for token in range(20)], abs=1e-5)


def test_it_keeps_what_attention_keeps_and_merges_nothing_while_there_is_room() -> None:
    given: dict[str, Any] = {"keys": torch.randn(9, 1, 2), "scores": torch.rand(9)}
    merging, attention = (policy_named(name).keep(candidates(9, **given)) for name in ("merging", "attention"))
    assert torch.equal(merging.indices, attention.indices)
    room = policy_named("merging").keep(candidates(6, keys=torch.randn(6, 1, 2)))
    assert (
        room.merge is not None and room.merge.onto.tolist() == list(range(6)) and bool((room.merge.weights == 1).all())
    )


def test_stored_rows_are_the_sums_of_the_rows_that_go_to_them() -> None:
    dice = torch.Generator().manual_seed(1)
    rows = Rows(Geometry(layers=2, heads=2, head_dim=3, chunk=4, dtype=torch.float32), [5, 5])
    rows._rows.whole.copy_(torch.randn(rows._rows.whole.shape, generator=dice))
    new, stay = torch.randn(2, 4, 2, 3, generator=dice), torch.tensor([[0, 2, 5, 6, 8], [1, 2, 3, 4, 7]])
    onto, weights = torch.randint(0, 9, (2, 9), generator=dice), torch.rand(2, 9, generator=dice)
    before = torch.cat((rows._rows.together(), new), 1)
    rows.merge(slice(0, 2), 5, new, stay, [Merge(*each) for each in zip(onto, weights, strict=True)])
    for layer in range(2):
        for place, token in enumerate(stay[layer].tolist()):
            parts = [weights[layer, t] * before[layer, t] for t in range(9) if onto[layer, t] == token]
            expected = torch.stack(parts).sum(0) if parts else torch.zeros(2, 3)
            assert torch.allclose(rows._rows[layer, place], expected, atol=1e-6)


def chunk(cache: KVCache, index: int, **commit: Any) -> None:
    """A chunk of random rows and random attention."""
    dice = torch.Generator().manual_seed(index)
    time = torch.arange(3 * index, 3 * index + 3).repeat_interleave(2).float()
    cache.begin_chunk(torch.stack((time, time * 0, time * 0), -1))
    rows = torch.randn(cache.layers, 1, cache.chunk, 2, 4, generator=dice)
    for layer in range(cache.layers):
        cache.extend(layer, rows[layer], -rows[layer])
        cache.store(layer, rows[layer])
    seen = [torch.rand(cache.tokens(layer) + cache.chunk, generator=dice) for layer in range(cache.layers)]
    cache.commit(Evidence(**{"attention": seen} if cache.needs else {}), **commit)


def held(cache: KVCache) -> list[torch.Tensor]:
    return [torch.cat(cache.committed(layer)) for layer in range(cache.layers)]


def test_the_kept_tokens_stay_the_same_and_their_rows_do_not(small_cache: Build) -> None:
    merging, plain = small_cache(policy="merging"), small_cache(policy="attention")
    for index in range(4):
        chunk(merging, index)
        chunk(plain, index)
        merging.check_integrity()
    for ours, theirs in zip(merging.retained_numbers(), plain.retained_numbers(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(torch.equal(*pair) for pair in zip(held(merging), held(plain), strict=True))


def test_a_restored_cache_goes_on_bit_for_bit(small_cache: Build) -> None:
    cache, twin = small_cache(policy="merging"), small_cache(policy="merging")
    for index in range(3):
        chunk(cache, index)
    twin.restore(cache.snapshot())
    for index in range(3, 5):
        chunk(cache, index)
        chunk(twin, index)
    assert all(torch.equal(*pair) for pair in zip(held(cache), held(twin), strict=True))


def test_a_chunk_that_is_not_valid_changes_no_row(small_cache: Build) -> None:
    cache = small_cache(policy="merging")
    for index in range(3):
        chunk(cache, index)
    before = held(cache)
    chunk(cache, 3, valid=torch.tensor(False))
    cache.take_back()
    assert all(torch.equal(*pair) for pair in zip(held(cache), before, strict=True))


def test_scores_that_are_not_finite_merge_nothing(small_cache: Build) -> None:
    cache, window = small_cache(policy="merging"), small_cache(policy="sink_window")
    for each in (cache, window):
        chunk(each, 0)
    cache._store.scores[0, 0] = torch.nan
    for each in (cache, window):
        chunk(each, 1)
    assert cache.fell_back
    assert all(torch.equal(*pair) for pair in zip(held(cache), held(window), strict=True))


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_quantised_rows_are_refused(small_cache: Build, kv_dtype: str) -> None:
    why = f"averages stored keys and values, which kv_dtype '{kv_dtype}' would round again at every chunk: use 'auto'"
    with pytest.raises(PolicyError, match=why):
        CacheConfig.filled_in("merging", 4, None, None, most=3, kv_dtype=kv_dtype)
    with pytest.raises(PolicyError, match=why):
        small_cache(policy="merging", kv_dtype=kv_dtype)


def test_sums_are_those_of_their_places() -> None:
    rows, places = torch.arange(12.0).view(6, 2), torch.tensor([0, 2, 0, 2, 2, 1])
    assert added_up(rows, places, 4).tolist() == [[4, 6], [10, 11], [16, 19], [0, 0]]
