"""Promise: what policy ``retrieval`` evicts waits in host memory, and the latent frames that show most of a chunk's
view come back for it. The slow twin is a list of tokens and the rule in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cache.config import CacheConfig, host_bytes, promised_bytes
from cache.errors import CacheError, PolicyError
from cache.kv_cache import KVCache
from cache.views import AGEING, best_in_view, least_missed, rows_of_frames, standing_out

Build = Callable[..., KVCache]
CHUNK, FRAME, HOST, BUDGET, SINK, RECENT = 6, 2, 14, 11, 2, 4
PLACES = BUDGET - SINK - RECENT
VIEWS = (0, 3, 20, 23, 40, 1, 21, 2, 60, 22)  # column at which each chunk begins


@pytest.fixture
def tiered(small_cache: Build) -> Build:
    usual = {"policy": "retrieval", "budget": BUDGET, "sink": SINK, "recent": RECENT, "host": HOST, "position_range": 8}
    return lambda **given: small_cache(**{**usual, **given})


def positions(chunk: int) -> torch.Tensor:
    """Three latent frames of two tokens, panning by one column a frame."""
    time = torch.arange(3 * chunk, 3 * chunk + 3).repeat_interleave(FRAME).float()
    column = VIEWS[chunk] + time - 3 * chunk + torch.arange(CHUNK) % FRAME
    return torch.stack((time, torch.zeros(CHUNK), column), -1)


def put(cache: KVCache, chunk: int, commit: bool = True) -> list[torch.Tensor]:
    """Open a chunk whose keys and values are its tokens' numbers; returns the numbers that each layer attends to."""
    cache.begin_chunk(positions(chunk), lambda keys, times: keys + 1000 * times[..., None, None])
    numbers = torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK).float()
    shape = (1, CHUNK, cache._workspace.fresh.shape[2], cache._workspace.fresh.shape[3])
    rows = numbers.view(1, CHUNK, 1, 1).expand(shape)
    seen = []
    for layer in range(cache.layers):
        keys, values = cache.extend(layer, rows, rows)
        cache.store(layer, rows)
        kept = keys.shape[1] - cache._recalled[layer] - CHUNK
        turned = torch.cat((keys[0, :kept], keys[0, kept + CHUNK :]))[:, 0, 0] - values_without(values, kept)
        newest, times = positions(chunk)[-1, 0], times_of(values_without(values, kept))
        assert torch.equal(turned, 1000 * (times - newest + 7).clamp(min=0)), "ages as attention sees them"
        seen.append(values[0, :, 0, 0])
    if commit:
        cache.commit()
    return seen


def values_without(values: torch.Tensor, kept: int) -> torch.Tensor:
    """The values of all tokens but the chunk's."""
    return torch.cat((values[0, :kept, 0, 0], values[0, kept + CHUNK :, 0, 0]))


def times_of(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers / FRAME).floor()


class Twin:
    """Sink and recent tokens, a list of the evicted ones, and the published rule, token by token."""

    def __init__(self, host: int = HOST) -> None:
        self.host, self.kept, self.evicted = host, list[int](), list[int]()

    def recalled(self, chunk: int) -> list[int]:
        waiting = self.evicted
        coming = positions(chunk)[:, 2].tolist()
        frames: dict[int, list[int]] = {}
        for token in waiting:
            frames.setdefault(token // FRAME, []).append(token)
        span = {frame: [float(place(token)) for token in tokens] for frame, tokens in frames.items()}
        hidden, order, newest = set(range(len(coming))), list[int](), max(frames, default=0)

        def shown(frame: int) -> set[int]:
            return {i for i in hidden if min(span[frame]) <= coming[i] <= max(span[frame])}

        def gain(frame: int) -> float:
            return len(shown(frame)) / len(coming) - AGEING * (newest - frame) / max(1, newest)

        while len(order) < len(frames):
            order.append(max((frame for frame in frames if frame not in order), key=gain))
            hidden -= shown(order[-1])
        chosen = list[int]()
        for frame in order:
            inside = [t for t in frames[frame] if min(coming) <= place(t) <= max(coming)]
            outside = [t for t in frames[frame] if t not in inside]
            chosen += sorted(inside, reverse=True) + sorted(outside, reverse=True)
        return sorted(chosen[:PLACES])

    def commit(self, chunk: int) -> None:
        held = self.kept + list(range(chunk * CHUNK, (chunk + 1) * CHUNK))
        self.kept = held if len(held) <= SINK + RECENT else held[:SINK] + held[-RECENT:]
        leaving = [token for token in held if token not in self.kept][-self.host :]
        self._forget(len(self.evicted) + len(leaving) - self.host)
        self.evicted += leaving

    def _forget(self, count: int) -> None:
        """Frame after frame, each time the one that the others show most, the oldest of equals."""
        while count > 0:
            frames: dict[int, list[int]] = {}
            for token in self.evicted:
                frames.setdefault(token // FRAME, []).append(token)
            span = {frame: {place(token) for token in tokens} for frame, tokens in frames.items()}
            worst = max(frames, key=lambda frame: sum(len(span[frame] & other) for other in span.values()))
            gone = frames[worst][:count]
            self.evicted = [token for token in self.evicted if token not in gone]
            count -= len(gone)


def place(token: int) -> float:
    return float(positions(token // CHUNK)[token % CHUNK, 2])


def expected(twin: Twin, chunk: int) -> list[int]:
    return twin.kept + list(range(chunk * CHUNK, (chunk + 1) * CHUNK)) + twin.recalled(chunk)


@pytest.mark.parametrize("host", [HOST, 3, 100])
def test_attention_sees_what_the_slow_twin_recalls(tiered: Build, host: int) -> None:
    cache, twin = tiered(host=host), Twin(host)
    for chunk in range(len(VIEWS)):
        for seen in put(cache, chunk):
            assert seen.tolist() == expected(twin, chunk)
        twin.commit(chunk)
        assert cache.chunks_on_host() == {token // CHUNK for token in twin.evicted}
        cache.check_integrity()


def test_a_place_that_is_seen_again_comes_back_and_the_newest_fill_the_rest(tiered: Build) -> None:
    cache = tiered(host=100)
    for chunk in range(7):
        put(cache, chunk)
    back = put(cache, 7)[0][-PLACES:]
    assert {int(number) // CHUNK for number in back} <= {0, 1, 5}, "chunks 0, 1 and 5 showed columns 0 to 6"


def test_a_place_seen_once_is_not_lost_because_the_camera_stays_elsewhere() -> None:
    frames = torch.arange(20).repeat_interleave(FRAME).float()
    column = torch.where(frames < 2, 0, 40) + torch.arange(40) % FRAME
    gone = least_missed(torch.stack((frames, torch.zeros(40), column), -1), 16 * FRAME)
    assert gone.tolist() == list(range(2 * FRAME, 18 * FRAME)), "the place seen longest, oldest frames first"


def scene(frames: int, foggy: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and values of latent frames of one view, in which a house stands out at columns 1 and 2 of the lower of
    two rows; in ``foggy`` frames nothing does."""
    grid = torch.cartesian_prod(torch.arange(float(frames)), torch.arange(2.0), torch.arange(4.0))
    house = (grid[:, 1] == 1) & ((grid[:, 2] == 1) | (grid[:, 2] == 2))
    fog = (grid[:, 0] >= foggy.start) & (grid[:, 0] < foggy.stop)
    values = torch.where(house & ~fog, 5.0, 0.1 * grid[:, 1])[:, None].expand(-1, 8) + fog[:, None].float()
    return grid, values


def test_what_stands_out_differs_from_its_surroundings_and_not_from_other_frames() -> None:
    grid, values = scene(6, range(2, 6))
    standing = standing_out(rows_of_frames(grid), values)
    assert bool((standing[(grid[:, 0] < 2) & (grid[:, 1] == 1)] > 1).all()), "a house, and the gaps beside it"
    assert float(standing[(grid[:, 0] >= 2) | (grid[:, 1] == 0)].max()) < 1e-9, "fog, however unlike the rest"


def test_fog_before_a_house_does_not_stand_for_the_house() -> None:
    grid, values = scene(12, range(3, 12))
    newest_first = torch.arange(len(grid)).flip(0)
    coming = grid[:8] + torch.tensor([12.0, 0.0, 0.0])

    def frames(standing: torch.Tensor | None) -> set[int]:
        best = best_in_view(grid[newest_first], coming, 2 * 8, standing)
        return {int(grid[newest_first[index], 0]) for index in best}

    assert frames(None) == {11, 10}, "the newest views of the place"
    assert frames(standing_out(rows_of_frames(grid), values)[newest_first]) == {1, 2}, (
        "the newest in which the house is to be seen"
    )
    gone = least_missed(grid, 9 * 8, standing_out(rows_of_frames(grid), values))
    assert {int(grid[index, 0]) for index in gone} == set(range(3, 12)), "fog is what is missed least"


def test_where_all_stand_out_alike_the_view_alone_decides() -> None:
    grid, values = scene(12, range(0))
    grid[:, 2] += 3 * (grid[:, 0] // 4)
    coming, standing = grid[-8:], standing_out(rows_of_frames(grid), values)
    order = torch.arange(len(grid)).flip(0)
    assert torch.equal(best_in_view(grid[order], coming, 16, standing[order]), best_in_view(grid[order], coming, 16))
    assert torch.equal(least_missed(grid, 40, standing), least_missed(grid, 40))


def test_a_token_that_replaces_another_of_its_number_is_looked_at_again(small_cache: Build) -> None:
    cache = small_cache(policy="salient_retrieval", budget=BUDGET, sink=SINK, recent=RECENT, host=100)
    for first in (0, 100):
        cache.forget_from(0)
        cache.chunks = 0
        for chunk in range(9):
            plain(cache, chunk, first)
    tier = cache._tier
    assert tier is not None
    slots = (tier.numbers[0] >= 0).nonzero()[:, 0]
    known, rows = tier._standing_of(0, slots), rows_of_frames(tier.positions[0, slots])
    assert known is not None and len(slots) > 20
    torch.testing.assert_close(known, standing_out(rows, tier.values[0, slots].flatten(1)))


def test_words_that_are_forgotten_are_also_forgotten_on_the_host(tiered: Build) -> None:
    cache = tiered(host=100)
    for chunk in range(5):
        put(cache, chunk)
    assert cache.chunks_on_host() == {0, 1, 2, 3, 4}
    cache.forget_where(lambda held, _: held[:, 2] < 10)
    assert cache.chunks_on_host() == {2, 3, 4}
    assert all(bool((each[:, 2] >= 10).all()) for each in cache.retained_positions())
    assert min(place(int(number)) for number in put(cache, 5)[0] if number < 5 * CHUNK) >= 10


@pytest.mark.parametrize("policy", ["retrieval", "salient_retrieval"])
@pytest.mark.parametrize("kv_dtype", ["auto", "int4"])
def test_a_restored_cache_goes_on_bit_for_bit(small_cache: Build, kv_dtype: str, policy: str) -> None:
    usual: dict[str, Any] = {"policy": policy, "budget": BUDGET, "sink": SINK, "recent": RECENT, "host": HOST}
    cache, twin = (small_cache(**usual, kv_dtype=kv_dtype) for _ in range(2))
    for chunk in range(6):
        plain(cache, chunk)
    state = cache.snapshot()
    twin.restore({name: tensor.clone() for name, tensor in state.items()})
    for chunk in range(6, 9):
        assert torch.equal(plain(cache, chunk), plain(twin, chunk))
    del state["host_numbers"]
    with pytest.raises(CacheError, match="snapshot tensor 'host_numbers' is nothing"):
        twin.restore(state)


def plain(cache: KVCache, chunk: int, first: int = 0) -> torch.Tensor:
    """Commit a chunk of random rows; returns all keys that it attends to."""
    cache.begin_chunk(positions(chunk))
    rows = torch.randn(cache.layers, 1, CHUNK, 2, 4, generator=torch.Generator().manual_seed(first + chunk))
    seen = [cache.extend(layer, rows[layer], -rows[layer])[0] for layer in range(cache.layers)]
    for layer in range(cache.layers):
        cache.store(layer, rows[layer])
    cache.commit()
    return torch.cat(seen)


def test_a_chunk_that_is_taken_back_leaves_nothing_on_the_host(tiered: Build) -> None:
    cache, twin = tiered(host=100), Twin(100)
    for chunk in range(4):
        put(cache, chunk)
        twin.commit(chunk)
    put(cache, 4, commit=False)
    cache.commit(valid=torch.tensor(False))
    cache.take_back()
    assert put(cache, 4)[0].tolist() == expected(twin, 4)


def test_layers_that_are_written_one_after_the_other_have_tiers_of_their_own(tiered: Build) -> None:
    """As when a new prompt rewrites chunks: layer 0 commits two chunks before layer 1 commits any."""
    cache, twin = tiered(), Twin()
    for chunk in range(3):
        put(cache, chunk)
        twin.commit(chunk)
    for layer in range(cache.layers):
        with cache.alone(layer) as alone:
            for chunk in (3, 4):
                put(alone, chunk)
    for chunk in (3, 4):
        twin.commit(chunk)
    for chunk in (5, 6, 7):
        for seen in put(cache, chunk):
            assert seen.tolist() == expected(twin, chunk)
        twin.commit(chunk)


@pytest.mark.parametrize("policy", ["retrieval", "salient_retrieval"])
def test_its_bytes_are_those_promised_and_the_device_stores_no_recalled_token(tiered: Build, policy: str) -> None:
    cache = tiered(policy=policy)
    sizes: dict[str, Any] = {"layers": 2, "heads": 2, "head_dim": 4, "dtype": "float32"}
    assert cache.host_nbytes == host_bytes(**sizes, slots=HOST, places=PLACES, salient=policy != "retrieval")
    assert cache.nbytes == promised_bytes(**sizes, budget=SINK + RECENT, chunk=CHUNK)
    config = CacheConfig.filled_in(policy, 5.5, 1, 2, most=3, host=7)
    assert config.host_bytes(**sizes, tokens_per_latent=FRAME) == cache.host_nbytes
    assert config.promised_bytes(**sizes, tokens_per_latent=FRAME, tokens_per_chunk=CHUNK) == cache.nbytes
    assert CacheConfig.filled_in("pafu", 5.5, 1, 2, most=3, host=7).host_latents == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recent_latents": 0.0}, "it needs recent tokens"),
        ({"host_latents": 0.0}, "and host memory for more than 0"),
        ({"host_latents": float("nan")}, "host memory of nan latent frames"),
        ({"policy": "pafu"}, "only policies retrieval and salient_retrieval use host memory, not 'pafu'"),
    ],
)
def test_a_tier_without_sense_is_refused(change: dict[str, Any], message: str) -> None:
    usual = {"policy": "retrieval", "budget_latents": 4.0, "sink_latents": 0.0, "recent_latents": 1.0}
    with pytest.raises(PolicyError, match=message):
        CacheConfig(**{**usual, "position_mode": "relative", "host_latents": 8.0, **change})


def test_nothing_comes_back_from_an_empty_tier() -> None:
    assert best_in_view(torch.zeros(0, 3), positions(0), 4).tolist() == []
