"""Promise: a token's redundancy is its highest cosine with a newer token that is kept; each pair is compared once."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cache import copies
from cache.copies import Copies, nearest_copies
from cache.kv_cache import NO_EVIDENCE, KVCache
from cache.registry import policy_named
from cache.storage import Geometry

CHUNK, LATENT, BUDGET = 12, 4, 72
GEOMETRY = Geometry(layers=2, heads=2, head_dim=16, chunk=CHUNK, dtype=torch.float32)


def plainly(keys: Tensor, latents: Tensor) -> Tensor:
    """The definition: all pairs, with a matrix of all products."""
    flat = normalize(keys.flatten(1).float(), dim=1)
    newer = latents.unsqueeze(0) > latents.unsqueeze(1)
    return (flat @ flat.T).masked_fill(~newer, 0).amax(1).clamp(0, 1)


def seen(tokens: int, seed: int) -> Tensor:
    """Keys (tokens, 2, 16) of a dozen things, each a little different every time."""
    generator = torch.Generator().manual_seed(seed)
    things = torch.randn(12, 2, 16, generator=torch.Generator().manual_seed(9))
    which = torch.randint(0, 12, (tokens,), generator=generator)
    return things[which] + 0.4 * torch.randn(tokens, 2, 16, generator=generator)


@pytest.mark.parametrize("tokens", [1, 3, 12, 50])
def test_without_a_past_it_is_the_highest_cosine_with_a_newer_frames_key(tokens: int) -> None:
    keys, latents = seen(tokens, 0), torch.arange(tokens) // LATENT
    assert torch.allclose(nearest_copies(keys, latents).redundancy(), plainly(keys, latents), atol=1e-5)


@pytest.mark.parametrize("rows", [5, 1000])
def test_it_is_the_same_when_a_chunk_is_compared_after_the_other(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies.copies_among, "__defaults__", (rows,))
    keys, latents, known = seen(60, 1), torch.arange(60) // LATENT, None
    for end in range(CHUNK, 61, CHUNK):
        known = nearest_copies(keys[:end], latents[:end], known)
        assert torch.allclose(known.redundancy(), plainly(keys[:end], latents[:end]), atol=1e-5)
    assert known is not None
    flat = normalize(keys.flatten(1), dim=1)
    held = known.places >= 0
    products = (flat.unsqueeze(1) * flat[known.places.long()]).sum(-1)
    assert torch.allclose(products[held], known.cosines[held], atol=1e-5), "a place is where the copy is"
    assert bool((latents[known.places.long()] > latents.unsqueeze(1))[held].all())


def test_a_lighter_copy_counts_proportionally_less() -> None:
    cosines, places = torch.tensor([[0.9, 0.8], [0, 0]]), torch.tensor([[1, 0], [-1, -1]], dtype=torch.int32)
    found = Copies(cosines, places).redundancy(torch.tensor([2.0, 1.0])).tolist()
    assert found == pytest.approx([0.8, 0])


@pytest.mark.parametrize("policy", ["redundancy", "value_novelty"])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_long_stream_keeps_what_comparing_all_pairs_at_every_commit_keeps(policy: str, kv_dtype: str) -> None:
    room = {"budget": BUDGET, "sink": 0, "recent": LATENT, "position_range": 18}
    cache = KVCache(GEOMETRY, policy=policy, kv_dtype=kv_dtype, **room)  # type: ignore[arg-type]
    same = kept = 0
    for chunk in range(60):
        expected = commit(cache, policy, chunk)
        cache.check_integrity()
        for ours, theirs in zip(cache.retained_numbers(), expected, strict=True):
            same += int(torch.isin(ours, theirs).sum())
            kept += len(theirs)
    assert same >= 0.99 * kept


def test_tokens_that_are_forgotten_are_no_copies_any_more() -> None:
    cache = KVCache(GEOMETRY, policy="redundancy", budget=BUDGET, sink=0, recent=LATENT, position_range=18)
    for chunk in range(4):
        commit(cache, "redundancy", chunk)
    cache.forget_from(3 * CHUNK)
    for layer in range(GEOMETRY.layers):
        places = cache._store.copies(layer).places
        assert int(places.max()) < cache.tokens(layer)
    state = cache.snapshot()
    again = KVCache(GEOMETRY, policy="redundancy", budget=BUDGET, sink=0, recent=LATENT, position_range=18)
    again.restore(state)
    for each in (cache, again):
        commit(each, "redundancy", 5)
    assert all(ours.equal(theirs) for ours, theirs in zip(cache.numbers(0), again.numbers(0), strict=True))


def commit(cache: KVCache, policy: str, chunk: int) -> list[Tensor]:
    """Commits the chunk; the numbers, by layer, that the policy would keep if it compared all pairs anew."""
    latents = torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK) // LATENT
    cache.begin_chunk(torch.stack((latents, latents * 0, latents * 0), 1).float())
    for layer in range(GEOMETRY.layers):
        keys, values = (seen(CHUNK, 1000 * chunk + 10 * layer + which)[None] for which in range(2))
        cache.extend(layer, keys, values)
        cache.store(layer, keys)
    anew = (dataclasses.replace(each, compared=None) for each in cache._to_judge(NO_EVIDENCE))
    expected = [each.numbers[policy_named(policy).keep(each).indices] for each in anew]
    cache.commit()
    return expected


def test_a_kernel_that_cannot_be_compiled_is_not_used_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def uncompiled(keys: Tensor, directions: Tensor, latents: Tensor) -> Copies:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    kernels = types.ModuleType("cache.kernels")
    kernels.copies_among = uncompiled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cache.kernels", kernels)
    copies.fused_copies.cache_clear()
    assert copies.fused_copies(torch.device("cpu")) is None
    assert copies.fused_copies(torch.device("cpu")) is None
    copies.fused_copies.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "pruning runs without its fused kernel: Failed to find C compiler. Please specify via CC environment variable."
    ]
