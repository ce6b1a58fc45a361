"""Promise: the invariants of the KV cache, one test each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cache.config import promised_bytes
from cache.errors import CacheCorrupt, CacheError, CacheFull
from cache.kv_cache import KVCache
from cache.policy import Choice, Evidence
from cache.storage import Geometry, Workspace
from tests.cache.conftest import evidence_for

Build = Callable[..., KVCache]
Put = Callable[..., torch.Tensor]


def test_a_window_that_nothing_leaves_equals_full_bit_for_bit(small_cache: Build, put_chunk: Put) -> None:
    full = small_cache(policy="full", budget=24, sink=0, recent=0)
    window = small_cache(policy="window", budget=24, sink=0, recent=0)
    for chunk in range(4):
        put_chunk(full, chunk)
        put_chunk(window, chunk)
    ours, theirs = full.snapshot(), window.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert full.tokens(0) == 24


def test_two_thousand_chunks_in_relative_mode_keep_bytes_and_positions_constant(
    small_cache: Build, put_chunk: Put
) -> None:
    cache = small_cache(position_range=8)
    promise = promised_bytes(layers=2, heads=2, head_dim=4, budget=10, chunk=6, dtype="float32")
    storage = {name: tensor.whole.data_ptr() for name, tensor in cache._store.tensors.items()}
    for chunk in range(2000):
        put_chunk(cache, chunk)
        assert cache.nbytes == promise
    assert {name: tensor.whole.data_ptr() for name, tensor in cache._store.tensors.items()} == storage
    time = cache.positions(0)[0, :, 0]
    assert time.tolist() == [0, 0, 4, 4, 5, 5, 6, 6, 7, 7], "sink clamped to 0, newest frame at range - 1"
    cache.check_integrity()


def test_absolute_positions_are_left_as_they_are(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache()
    for chunk in range(3):
        put_chunk(cache, chunk)
    assert torch.equal(cache.positions(0)[0], cache.retained_positions()[0])
    assert cache.positions(0)[0, :, 0].tolist() == [0, 0, 5, 5, 6, 6, 7, 7, 8, 8]


def test_scores_stay_with_their_tokens(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache()
    for chunk in range(3):
        put_chunk(cache, chunk, torch.arange(12.0).view(2, 6) + 100 * chunk)
    assert cache.snapshot()["scores"][1].tolist() == [6, 7, 110, 111, 206, 207, 208, 209, 210, 211]


def test_what_a_prompt_once_named_stays_named(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache(policy="asked", budget=18)
    said = []
    for chunk in range(3):
        said.append(evidence_for(cache, chunk).asked)
        put_chunk(cache, chunk)
    cache.settle()
    for layer, named in enumerate(cache.snapshot()["asked"]):
        rows = [torch.nn.functional.pad(each[layer], (0, 18 - len(each[layer]))) for each in said]
        assert torch.equal(named, torch.stack(rows).amax(0))


def test_a_chunk_without_scores_does_not_inherit_those_of_evicted_tokens(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache()
    for chunk in range(2):
        put_chunk(cache, chunk, torch.full((2, 6), 7.0))
    put_chunk(cache, 2)
    assert cache.snapshot()["scores"][0].tolist() == [7.0] * 4 + [0.0] * 6


def test_full_refuses_to_overflow_and_stays_usable(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache(policy="full", budget=8)
    put_chunk(cache, 0)
    before = cache.snapshot()
    with pytest.raises(CacheFull, match="12 tokens do not fit its budget of 8"):
        put_chunk(cache, 1)
    after = cache.snapshot()
    assert all(torch.equal(before[name], after[name]) for name in ("keys", "counters"))


def test_a_chunk_that_was_dropped_half_way_leaves_no_trace(small_cache: Build, put_chunk: Put) -> None:
    cache, undisturbed = small_cache(), small_cache()
    for chunk in range(3):
        cache.begin_chunk(torch.full((6, 3), 99.0))
        cache.extend(0, torch.full((1, 6, 2, 4), 9.0), torch.full((1, 6, 2, 4), 9.0))
        put_chunk(cache, chunk)
        put_chunk(undisturbed, chunk)
    ours, theirs = cache.snapshot(), undisturbed.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_restored_cache_goes_on_bit_for_bit(small_cache: Build, put_chunk: Put) -> None:
    cache, twin = small_cache(policy="random", seed=5), small_cache(policy="random", seed=5)
    for chunk in range(3):
        put_chunk(cache, chunk)
    twin.restore(cache.snapshot())
    for chunk in range(3, 6):
        put_chunk(cache, chunk)
        put_chunk(twin, chunk)
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, r"'keys' is torch.float32 \(2, 6, 2, 4\), this cache needs torch.float32 \(2, 6, 4, 4\)"),
        ({"dtype": torch.bfloat16}, "this cache needs torch.bfloat16"),
        ({"layers": 3}, r"'counters' has shape \(5,\), expected \(6,\)"),
        ({"budget": 4, "recent": 1, "sink": 1}, "holds 6 tokens in a layer, this cache's budget is 4"),
    ],
)
def test_a_snapshot_of_another_geometry_is_refused_by_name(
    small_cache: Build, put_chunk: Put, change: dict[str, object], message: str
) -> None:
    cache, other = small_cache(), small_cache(**change)
    put_chunk(cache, 0)
    with pytest.raises(CacheError, match=message):
        other.restore(cache.snapshot())


def test_an_incomplete_snapshot_is_refused(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache()
    put_chunk(cache, 0)
    state = cache.snapshot()
    del state["values"]
    with pytest.raises(CacheError, match="lacks values"):
        small_cache().restore(state)


def test_tokens_keep_the_numbers_that_they_came_with(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache()
    for chunk in range(3):
        put_chunk(cache, chunk)
    assert [numbers.tolist() for numbers in cache.retained_numbers()] == [[0, 1, 10, 11, 12, 13, 14, 15, 16, 17]] * 2


def test_numbers_skip_chunks_that_were_lost(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache(policy="full", budget=12, sink=0, recent=0)
    put_chunk(cache, 0)
    put_chunk(cache, 4)
    assert cache.retained_numbers()[0].tolist() == [*range(6), *range(24, 30)]


def test_attention_adds_up_over_the_chunks(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache(policy="attention", budget=12, sink=0, recent=0)
    looked_at = []

    def note(evidence: Evidence) -> None:
        assert evidence.attention is not None
        looked_at.append(evidence.attention[1].clone())
        KVCache.commit(cache, evidence)

    cache.commit = note  # type: ignore[method-assign]
    put_chunk(cache, 0)
    put_chunk(cache, 1)
    first = torch.cat((looked_at[0], torch.zeros(6)))
    assert torch.allclose(cache.retained_scores()[1], first + looked_at[1])


@pytest.mark.parametrize("policy", ["attention", "salience", "pafu", "oracle"])
def test_a_policy_is_not_served_without_what_it_needs(small_cache: Build, policy: str) -> None:
    cache = small_cache(policy=policy)
    chunk = torch.zeros(1, 6, 2, 4)
    cache.begin_chunk(torch.zeros(6, 3))
    for layer in range(2):
        cache.extend(layer, chunk, chunk)
        cache.store(layer, chunk)
    with pytest.raises(CacheError, match=f"policy '{policy}' needs evidence"):
        cache.commit()


@pytest.mark.parametrize(
    ("policy", "bad"),
    [
        ("attention", {"attention": [torch.full((6,), torch.nan), torch.zeros(6)]}),
        ("salience", {"salience": torch.full((2, 6), torch.inf)}),
        ("pafu", {"salience": torch.full((2, 6), torch.nan)}),
        ("asked", {"salience": torch.zeros(2, 6), "asked": [torch.full((6,), torch.nan), torch.zeros(6)]}),
    ],
)
def test_scores_that_are_no_numbers_make_the_session_fall_back_for_good(
    small_cache: Build, put_chunk: Put, policy: str, bad: dict[str, object]
) -> None:
    cache, twin = small_cache(policy=policy), small_cache(policy="sink_window")
    chunk = torch.ones(1, 6, 2, 4)
    for one in (cache, twin):
        one.begin_chunk(torch.zeros(6, 3))
        for layer in range(2):
            one.extend(layer, chunk, chunk)
            one.store(layer, chunk)
    cache.commit(Evidence(**bad))  # type: ignore[arg-type]
    twin.commit()
    assert (cache.fell_back, cache.policy, cache.needs) == (True, "sink_window", frozenset())
    for index in range(1, 4):
        put_chunk(cache, index)
        put_chunk(twin, index)
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ("keys", "numbers", "scores"))
    cache.check_integrity()
    revived = small_cache(policy=policy)
    revived.restore(cache.snapshot())
    assert (revived.fell_back, revived.policy) == (True, "sink_window"), "a snapshot forgot the fall"


def test_keys_that_are_no_numbers_make_redundancy_fall_back(small_cache: Build, put_chunk: Put) -> None:
    cache = small_cache(policy="redundancy")
    put_chunk(cache, 0)
    chunk = torch.full((1, 6, 2, 4), torch.nan)
    cache.begin_chunk(torch.ones(6, 3))
    for layer in range(2):
        cache.extend(layer, chunk, chunk)
        cache.store(layer, chunk)
    cache.commit()
    assert cache.fell_back and cache.tokens(0) == 10


def test_wrong_use_is_named(small_cache: Build) -> None:
    cache = small_cache()
    chunk = torch.zeros(1, 6, 2, 4)
    with pytest.raises(CacheError, match="extend without begin_chunk"):
        cache.extend(0, chunk, chunk)
    with pytest.raises(CacheError, match=r"shape \(5, 3\), expected \(6, 3\)"):
        cache.begin_chunk(torch.zeros(5, 3))
    cache.begin_chunk(torch.zeros(6, 3))
    with pytest.raises(CacheError, match=r"must both be \(1, 6, 2, 4\)"):
        cache.extend(0, chunk, chunk[:, :4])
    for layer in range(2):
        cache.extend(layer, chunk, chunk)
    cache.store(0, chunk)
    with pytest.raises(CacheError, match="all 2 layers, got 1"):
        cache.commit()
    cache.store(1, chunk)
    with pytest.raises(CacheError, match=r"salience has shape \(1, 6\), expected \(2, 6\)"):
        cache.commit(Evidence(salience=torch.zeros(1, 6)))
    with pytest.raises(CacheError, match=r"evidence 'attention' has \[6, 5\] tokens by layer, expected \[6, 6\]"):
        cache.commit(Evidence(attention=[torch.zeros(6), torch.zeros(5)]))


@pytest.mark.parametrize("bad", [{"layers": 0}, {"chunk": 0}, {"position_range": 0}])
def test_an_impossible_geometry_is_refused(small_cache: Build, bad: dict[str, int]) -> None:
    with pytest.raises(CacheError, match="must be 1 or more"):
        small_cache(**bad)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda cache: cache._store.keys._rows[1, 3].fill_(torch.nan),
            "layer 1: keys contain a number that is not finite",
        ),
        (lambda cache: cache._store.values._rows[0, 2].fill_(torch.inf), "layer 0: values contain"),
        (
            lambda cache: cache._store.numbers[0, :6].copy_(cache._store.numbers[0, :6].flip(0)),
            "layer 0: tokens are not in stream order",
        ),
        (lambda cache: cache._store.kept.__setitem__(0, 11), "layer 0 holds 11 tokens, budget 10"),
    ],
)
def test_damage_is_found(small_cache: Build, put_chunk: Put, damage: Callable[[KVCache], None], message: str) -> None:
    cache = small_cache()
    put_chunk(cache, 0)
    cache.check_integrity()
    damage(cache)
    with pytest.raises(CacheCorrupt, match=message):
        cache.check_integrity()


@pytest.mark.parametrize("indices", [[0, 0, 1], [1, 0], [0, 6]], ids=["twice", "unsorted", "outside"])
def test_a_policy_cannot_break_the_slots(
    small_cache: Build, put_chunk: Put, monkeypatch: pytest.MonkeyPatch, indices: list[int]
) -> None:
    class Broken:
        name = "broken"
        needs = reads = frozenset()

        def update(self, candidates):
            return candidates.scores

        def keep(self, candidates: object) -> Choice:
            return Choice(torch.tensor(indices))

    cache = small_cache()
    monkeypatch.setattr(cache._pruner, "_policy", Broken())
    with pytest.raises(CacheError, match="'broken' must return sorted, distinct indices"):
        put_chunk(cache, 0)
    assert cache.tokens(0) == 0


@pytest.mark.parametrize("policy", ["sink_window", "attention", "pafu"])
@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_a_chunk_that_turns_out_to_be_none_is_taken_back(
    small_cache: Build, put_chunk: Put, policy: str, chunks: int
) -> None:
    """As if the chunk had never been, whether the cache was still filling or full."""
    cache, twin = small_cache(policy=policy), small_cache(policy=policy)
    for index in range(chunks):
        put_chunk(cache, index)
        put_chunk(twin, index)
    commit = cache.commit
    cache.commit = lambda evidence: commit(evidence, torch.tensor(False))  # type: ignore[method-assign]
    put_chunk(cache, chunks)
    cache.take_back()
    ours, theirs = cache.snapshot(), twin.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sessions_take_turns_in_one_workspace(small_cache: Build, put_chunk: Put) -> None:
    """A session's tokens do not depend on which sessions used the workspace in between, or on its growth."""
    shared = Workspace(Geometry(layers=2, heads=2, head_dim=4, chunk=6, dtype=torch.float32), slots=6)
    small, large = small_cache(workspace=shared), small_cache(workspace=shared, budget=20)
    alone = small_cache()
    assert shared.slots == 26
    for chunk in range(4):
        put_chunk(small, chunk)
        put_chunk(large, chunk + 7)
        put_chunk(alone, chunk)
    ours, theirs = small.snapshot(), alone.snapshot()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_chunk_that_another_session_interrupted_must_be_begun_anew(small_cache: Build, put_chunk: Put) -> None:
    shared = Workspace(Geometry(layers=2, heads=2, head_dim=4, chunk=6, dtype=torch.float32), slots=16)
    first, second = small_cache(workspace=shared), small_cache(workspace=shared)
    first.begin_chunk(torch.zeros(6, 3))
    put_chunk(second, 0)
    with pytest.raises(CacheError, match="another session began a chunk"):
        first.extend(0, torch.zeros(1, 6, 2, 4), torch.zeros(1, 6, 2, 4))
    put_chunk(first, 0)
    with pytest.raises(CacheError, match="the workspace has .* this cache has"):
        small_cache(workspace=shared, head_dim=8)
