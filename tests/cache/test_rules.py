"""Promise: the rules from the literature do what their papers say, on numbers that can be checked by hand."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch

from cache.config import RULES, CacheConfig
from cache.registry import policy_named
from cache.scoring import expected_affinity, kernel_densities, mean_affinity
from model.transformer import rope
from tests.cache.test_policy import candidates, kept

NO_ONE = {"sink": 0, "recent": 0}


def keys_of(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(1)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_its_budget_sink_and_recent(name: str) -> None:
    dice = torch.Generator().manual_seed(3)
    keys = torch.randn(20, 2, 4, generator=dice)
    noise = {
        field: torch.rand(20, generator=dice)
        for field in ("scores", "attention", "strongest", "affinity", "expected", "told")
    }
    chosen = kept(name, 20, keys=keys, read_values=lambda: keys + 1, **noise)
    assert len(chosen) == 6 and {0, 1, 18, 19} <= set(chosen) and chosen == sorted(chosen)


def test_heavy_hitters_forget_and_tova_remembers_nothing() -> None:
    seen = {"attention": torch.tensor([0.0, 1.0, 0.0]), "scores": torch.tensor([2.0, 0.0, 0.0])}
    three: dict[str, Any] = {"budget": 1, **NO_ONE, **seen}
    assert policy_named("h2o").update(candidates(3, **three)).tolist() == pytest.approx([1.8, 1.0, 0.0])
    assert kept("tova", 3, **three) == [1] and kept("h2o", 3, **three) == [0]


def test_the_newest_queries_choose_by_their_product_with_the_keys() -> None:
    q, keys = torch.randn(5, 2, 4), torch.randn(7, 2, 4)
    each = torch.einsum("shd,nhd->nhs", q, keys) / 4**0.5
    assert torch.allclose(mean_affinity(q, keys), each.mean((1, 2)), atol=1e-6)
    assert kept("recent_query", 3, budget=1, affinity=torch.tensor([0.1, 0.9, 0.2]), **NO_ONE) == [1]


def test_trig_expects_the_queries_of_later_positions() -> None:
    """The published formula, from un-rotated keys and their ages, against the product with rotated ones."""
    queries, keys, heads, theta = 5, 7, 2, 100.0
    dice = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, heads, 8, generator=dice) for n in (queries, keys))
    split, times, newest = (8, 0, 0), torch.arange(keys).float(), 9.0
    turned = rope.rotate_time(k[None], times[None], split, theta)[0]
    place = torch.tensor([[[newest, 0.0, 0.0]]])
    now, ahead = rope.later(rope.angles(place, split, theta), split, theta)
    fast = expected_affinity(rope.time_pairs(q, split), rope.time_pairs(turned, split), now, ahead)

    def plain(token: int, head: int) -> float:
        total = 0.0
        for pair in range(4):
            seen = [complex(*q[i, head, 2 * pair : 2 * pair + 2].tolist()) for i in range(queries)]
            key = complex(*k[token, head, 2 * pair : 2 * pair + 2].tolist())
            mean, size = sum(seen) / queries, sum(map(abs, seen)) / queries
            phase = cmath.phase(mean * key.conjugate())
            for step in range(8):
                age = newest - float(times[token]) + 2**step
                total += abs(mean) * abs(key) * math.cos(theta ** (-2 * pair / 8) * age + phase) / 8
            total += (size - abs(mean)) * abs(key)
        return total

    each = torch.tensor([[plain(token, head) for head in range(heads)] for token in range(keys)])
    score = (each - each.mean(0)) / each.std(0, correction=0)
    assert torch.allclose(fast, score.mean(1), atol=1e-4)
    assert kept("trig", 3, budget=1, expected=torch.tensor([0.1, 0.9, 0.2]), **NO_ONE) == [1]


def test_keys_unlike_the_mean_stay() -> None:
    assert kept("keydiff", 4, keys=keys_of((1, 0.1), (1, 0), (1, -0.1), (-0.5, 1)), budget=1, **NO_ONE) == [3]


def test_values_far_from_the_mean_stay_unless_something_newer_repeats_them() -> None:
    values = keys_of((9, 0), (9, 0), (0, 0), (0.1, 0), (0, 0.1))
    keys = keys_of((1, 0), (1, 0), (0, 1), (0, -1), (-1, 0))
    assert kept("value_novelty", 5, keys=keys, read_values=lambda: values, budget=1, **NO_ONE) == [1]


def test_rkv_weighs_attention_against_redundancy() -> None:
    keys = keys_of((1, 0), (1, 0), (0, 1))
    looked_at = torch.tensor([1.0, 0.2, 0.1])
    assert kept("rkv", 3, keys=keys, attention=looked_at, budget=2, **NO_ONE) == [1, 2], "the copy goes, however seen"


def test_kernel_densities_are_those_of_the_formula() -> None:
    close = kernel_densities(keys_of((0, 0), (1, 0), (3, 4)))
    assert close[0].tolist() == pytest.approx([1.0, (1 + 1 / 1) ** -2, (1 + 25 / 1) ** -2])
    assert torch.equal(close, close.T)


def test_density_keeps_what_stands_alone_and_thins_out_the_crowd() -> None:
    """Two new tokens: a third copy of an old pair, and one far from all."""
    keys = keys_of((0, 0), (0, 0.1), (50, 0), (0, 0.05), (0, 70))
    at_insertion = torch.tensor([0.99, 0.99, 1e-4, 1.9, 1e-4])
    chosen = kept("density", 5, keys=keys, scores=at_insertion, budget=4, **NO_ONE)
    assert {2, 4} < set(chosen) and len(set(chosen) & {0, 1, 3}) == 2


def test_density_refuses_new_tokens_that_would_crowd_out_more_than_must_go() -> None:
    """Three copies of one place arrive, and one token must go: copies that would double the density are not
    admitted."""
    keys = keys_of((0, 0), (90, 0), (0, 0.01), (0, 0.02), (0, 0.03))
    at_insertion = torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0])
    chosen = kept("density", 5, keys=keys, scores=at_insertion, budget=3, fresh=3, **NO_ONE)
    assert 1 in chosen and len(set(chosen) & {0, 2, 3, 4}) == 2


def test_density_stores_how_crowded_it_was_at_insertion() -> None:
    keys = keys_of((0, 0), (0, 0), (9, 9), (9, 9))
    stored = policy_named("density").update(candidates(4, keys=keys, scores=torch.tensor([7.0, 7.0, 0.0, 0.0])))
    assert stored[:2].tolist() == [7.0, 7.0] and stored[2:].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize(("budget", "sink"), [(1.0, 0.25), (1.5, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 2.0), (18.0, 3.0)])
def test_sinks_are_whole_pictures_wherever_one_fits(budget: float, sink: float) -> None:
    assert CacheConfig.filled_in("sink_window", budget, None, None, most=3).sink_latents == sink


def frames(*latents: int) -> torch.Tensor:
    """Positions (n, 3) of tokens of these latent frames, side by side."""
    return torch.tensor([[float(latent), 0.0, float(place % 2)] for place, latent in enumerate(latents)])


def test_words_choose_whole_latent_frames() -> None:
    told = torch.tensor([0.1, 0.1, 0.9, 0.5, 0.8, 0.0])  # of three frames: .1, .7 and .4
    chosen = kept("text_topk", 6, positions=frames(0, 0, 1, 1, 2, 2), told=told, budget=2, **NO_ONE)
    assert chosen == [2, 3]


def test_fields_of_view_cover_what_is_coming_one_after_the_other() -> None:
    """The newest chunk sees columns 10 to 13. Frame 0 shows 10 and 11, frame 1 the same again, frame 2 shows 12."""
    columns = (10, 11, 10, 11, 12, 12, 10, 11, 12, 13)
    latents = (0, 0, 1, 1, 2, 2, 3, 3, 3, 3)
    places = torch.tensor([[float(t), 0.0, float(w)] for t, w in zip(latents, columns, strict=True)])
    shape: dict[str, Any] = {"positions": places, "fresh": 4, "sink": 0, "recent": 0}
    assert kept("fov", 10, budget=4, **shape) == [6, 7, 8, 9], "the newest frame shows all of it"
    far = places.clone()
    far[6:, 2] = torch.tensor([10.0, 11.0, 12.0, 12.0])
    older = far[:6].clone()
    assert kept("fov", 6, budget=4, positions=older, fresh=2, sink=0, recent=0) == [2, 3, 4, 5], "the older copy goes"


def test_what_was_asked_for_outlives_what_is_plain_to_see() -> None:
    keys = keys_of((1, 0), (0, 1), (-1, 0), (0, -1))
    values = keys_of((3, 0), (0, 3.3), (0, -2), (-2, 0))
    alike = {"scores": torch.full((4,), 0.5)}
    shape: dict[str, Any] = {"keys": keys, "read_values": lambda: values, "budget": 1, **NO_ONE, **alike}
    assert kept("asked", 4, asked=torch.zeros(4), **shape) == [1]
    assert kept("asked", 4, asked=torch.tensor([0.9, 0.0, 0.0, 0.0]), **shape) == [0]


def test_of_what_nobody_asked_for_the_more_salient_stays() -> None:
    keys, values = keys_of((1, 0), (0, 1), (-1, 0), (0, -1)), keys_of((3, 0), (0, 3.3), (0, -2), (-2, 0))
    shape: dict[str, Any] = {"keys": keys, "read_values": lambda: values, "budget": 1, **NO_ONE}
    assert kept("asked", 4, asked=torch.zeros(4), scores=torch.tensor([0.8, 0.5, 0.5, 0.5]), **shape) == [0]


def test_an_unrequested_newer_copy_does_not_replace_a_requested_one() -> None:
    others = ((0, 1), (0, -1), (-1, 0))
    keys, values = keys_of((1, 0), (1, 0), *others), keys_of((3, 0), (3, 0), *((-1, 0) for _ in others))
    alike = {"scores": torch.full((5,), 0.5)}
    shape: dict[str, Any] = {"keys": keys, "read_values": lambda: values, "budget": 1, **NO_ONE, **alike}
    assert kept("asked", 5, asked=torch.zeros(5), **shape) == [1]
    assert kept("asked", 5, asked=torch.tensor([0.9, 0.0, 0.0, 0.0, 0.0]), **shape) == [0]
    assert kept("asked", 5, asked=torch.tensor([0.9, 0.9, 0.0, 0.0, 0.0]), **shape) == [1], "copies alike: the newer"
