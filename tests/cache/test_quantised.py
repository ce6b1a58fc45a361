"""Promise: 8- and 4-bit keys and values have the stated size and error, and are rounded only once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cache.config import GROUP, CacheConfig, promised_bytes
from cache.errors import CacheError, PolicyError
from cache.kv_cache import KVCache
from cache.storage import Geometry, QuantisedRows, Rows

Build = Callable[..., KVCache]
Put = Callable[..., torch.Tensor]
STEPS = {"int8": 127, "int4": 7}  # whole numbers to each side of zero


@pytest.mark.parametrize(("kv_dtype", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("head_dim", [64, 24], ids=["whole groups", "a group that is not full"])
def test_a_number_moves_by_half_a_step_of_its_group_at_most(kv_dtype: str, bits: int, head_dim: int) -> None:
    torch.manual_seed(0)
    new = torch.randn(3, 7, 4, head_dim) * torch.logspace(-3, 3, 7).view(1, 7, 1, 1)
    rows = QuantisedRows(Geometry(3, 4, head_dim, 7, torch.float32), [9] * 3, bits)
    rows.append(slice(0, 3), 0, new)
    moved = (rows.read(slice(0, 3), 7) - new).abs().flatten(2)
    flat = torch.nn.functional.pad(new.flatten(2).abs(), (0, -4 * head_dim % GROUP))
    step = flat.unflatten(-1, (-1, GROUP)).amax(-1, keepdim=True) / STEPS[kv_dtype]
    step = step.expand(-1, -1, -1, GROUP).flatten(2)[..., : 4 * head_dim]
    assert bool((moved <= step * 0.52 + step * STEPS[kv_dtype] * 2**-8).all()), "0.5, and a scale in bf16"
    assert float(moved.max()) > 0


@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "int4"])
def test_bytes_are_those_promised_scales_included(small_cache: Build, kv_dtype: str) -> None:
    cache = small_cache(kv_dtype=kv_dtype)
    assert cache.nbytes == promised_bytes(
        layers=2, heads=2, head_dim=4, budget=10, chunk=6, dtype="float32", kv_dtype=kv_dtype
    )
    real = {"layers": 30, "heads": 12, "head_dim": 128, "budget": 9360, "chunk": 4680, "dtype": "bfloat16"}
    share = promised_bytes(**real, kv_dtype=kv_dtype) / promised_bytes(**real)
    assert share == pytest.approx({"auto": 1.0, "int8": 0.53, "int4": 0.28}[kv_dtype], abs=0.01)


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_tokens_are_rounded_once_however_often_they_move(small_cache: Build, put_chunk: Put, kv_dtype: str) -> None:
    """After a thousand evictions, the sink still has exactly the codes of its first commit."""
    cache = small_cache(kv_dtype=kv_dtype, budget=12, sink=2, recent=4)
    written = put_chunk(cache, 0)
    first = cache.committed(1)
    largest = written.abs().amax() / STEPS[kv_dtype]
    assert float((first[0] - written[1]).abs().max()) <= 0.52 * float(largest) + 0.01
    for index in range(1, 300):
        put_chunk(cache, index)
    later = cache.committed(1)
    assert torch.equal(first[0][:2], later[0][:2]) and torch.equal(first[1][:2], later[1][:2])
    cache.check_integrity()


def test_a_quantised_cache_keeps_the_tokens_that_a_plain_one_keeps_where_no_key_decides(
    small_cache: Build, put_chunk: Put
) -> None:
    plain, small = small_cache(policy="random"), small_cache(policy="random", kv_dtype="int4")
    for index in range(5):
        put_chunk(plain, index)
        put_chunk(small, index)
    ours, theirs = plain.retained_numbers(), small.retained_numbers()
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_a_snapshot_of_whole_numbers_goes_on_bit_for_bit_and_fits_no_other_dtype(
    small_cache: Build, put_chunk: Put
) -> None:
    cache, twin = small_cache(kv_dtype="int8"), small_cache(kv_dtype="int8")
    for index in range(3):
        put_chunk(cache, index)
    twin.restore(cache.snapshot())
    for index in range(3, 5):
        put_chunk(cache, index)
        put_chunk(twin, index)
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(CacheError, match="snapshot"):
        small_cache().restore(cache.snapshot())
    with pytest.raises(CacheError, match="lacks keys.scales, values.scales"):
        small_cache(kv_dtype="int8").restore(small_cache().snapshot())


def test_a_kv_dtype_that_is_none_or_does_not_fit_is_named(small_cache: Build) -> None:
    with pytest.raises(PolicyError, match="unknown kv_dtype 'int2'; known: auto, bf16, int8, int4"):
        CacheConfig(
            policy="window",
            budget_latents=3,
            sink_latents=0,
            recent_latents=1,
            position_mode="relative",
            kv_dtype="int2",
        )
    with pytest.raises(PolicyError, match="'bf16' is for a model that computes in bfloat16, not in float32"):
        small_cache(kv_dtype="bf16")
    assert isinstance(small_cache(kv_dtype="bf16", dtype=torch.bfloat16)._store.keys, Rows)
