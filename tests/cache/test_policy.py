"""Promise: policies are pure functions from numbers to kept indices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cache.config import POLICY_NAMES, SERVED_POLICIES, CacheConfig, check_room, promised_bytes
from cache.errors import CacheError, CacheFull, PolicyError
from cache.policy import Candidates
from cache.registry import POLICIES, policy_named


def candidates(count: int, keys: torch.Tensor | None = None, **overrides: Any) -> Candidates:
    fields = {
        "positions": torch.stack((torch.arange(count).float(), torch.zeros(count), torch.zeros(count)), -1),
        "numbers": torch.arange(count),
        "read_keys": lambda: torch.zeros(count, 1, 2),
        "read_values": lambda: torch.zeros(count, 1, 2),
        "scores": torch.zeros(count),
        "budget": 6,
        "sink": 2,
        "recent": 2,
        "seed": 1,
        "chunk": 0,
        "layer": 0,
        "fresh": 2,
    }
    if keys is not None:
        fields["read_keys"] = lambda: keys
    return Candidates(**{**fields, **overrides})


def kept(policy: str, count: int, **overrides: Any) -> list[int]:
    return policy_named(policy).keep(candidates(count, **overrides)).indices.tolist()


def test_every_listed_policy_exists() -> None:
    assert tuple(POLICIES) == POLICY_NAMES


@pytest.mark.parametrize("policy", POLICY_NAMES)  # also those that need evidence: nobody has to rank anything
def test_nothing_is_evicted_while_there_is_room(policy: str) -> None:
    assert kept(policy, 6) == [0, 1, 2, 3, 4, 5]


def test_window_keeps_the_newest() -> None:
    assert kept("window", 10, sink=0) == [4, 5, 6, 7, 8, 9]


def test_sink_window_keeps_the_first_and_the_newest() -> None:
    assert kept("sink_window", 10) == [0, 1, 6, 7, 8, 9]


def test_full_refuses_to_evict() -> None:
    with pytest.raises(CacheFull, match="7 tokens do not fit its budget of 6"):
        kept("full", 7)


def test_random_keeps_sink_and_recent_and_draws_the_rest_evenly() -> None:
    drawn = torch.zeros(10)
    for seed in range(600):
        indices = kept("random", 10, seed=seed)
        assert len(set(indices)) == 6 and {0, 1, 8, 9} <= set(indices)
        drawn[indices] += 1
    assert bool((drawn[2:8] - 200).abs().max() < 50), "each of six competes for two places"


def test_random_draws_once_for_each_token() -> None:
    """A token that survived one commit survives the next: its number is the same in every layer and chunk."""
    assert kept("random", 40) == kept("random", 40, chunk=1) == kept("random", 40, layer=1)
    assert kept("random", 40, seed=2) != kept("random", 40)
    large = kept("random", 40, budget=12)
    assert set(kept("random", 40, budget=8)) <= set(large)
    later = kept("random", 10, numbers=torch.arange(100, 110))
    assert later != kept("random", 10), "the number counts, not the place in the cache"


def test_an_unknown_policy_is_named_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="unknown cache policy 'lru'; known policies: full, window"):
        policy_named("lru")


def spread(*degrees: float) -> torch.Tensor:
    """Keys (n, 1, 2) that point in the given directions (degrees)."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack((angle.cos(), angle.sin()), -1).unsqueeze(1)


ROOM = {"budget": 3, "sink": 0, "recent": 1}


def test_attention_and_salience_keep_the_highest_scores() -> None:
    scores = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.0])
    for policy in ("attention", "salience"):
        assert kept(policy, 5, scores=scores, **ROOM) == [1, 3, 4]


def test_redundancy_drops_what_a_newer_key_repeats() -> None:
    keys = spread(0, 60, 0, 60, 180)  # the first two are repeated by the third and fourth
    assert kept("redundancy", 5, keys=keys, **ROOM) == [2, 3, 4]
    assert kept("redundancy", 5, keys=spread(0, 60, 60, 60, 180), **ROOM) == [0, 3, 4]


def test_redundancy_compares_with_later_latent_frames_only() -> None:
    same_frame = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1]])
    keys = spread(0, 0, 90, 90, 180)  # the two at 0 degrees are of one frame: no copies of each other in time
    assert kept("redundancy", 5, positions=same_frame, keys=keys, budget=4, sink=0, recent=2) == [0, 1, 3, 4]


def test_pafu_weighs_salience_by_novelty() -> None:
    keys = spread(0, 90, 0, 180, 270)
    salient_copy = torch.tensor([0.9, 0.2, 0.6, 0.1, 0.0])
    assert kept("salience", 5, scores=salient_copy, keys=keys, **ROOM) == [0, 2, 4]
    assert kept("pafu", 5, scores=salient_copy, keys=keys, **ROOM) == [1, 2, 4], "the first is a copy of the third"
    half_new = {"keys": spread(0, 90, 0, 180, 30), "scores": torch.tensor([0.0, 0.5, 0.0, 0.05, 0.0])}
    assert kept("pafu", 5, **half_new, budget=2, sink=0, recent=1) == [1, 4], "the fourth is all new, and nobody cares"


def test_a_clear_case_outweighs_a_partial_copy() -> None:
    """The first token is three-quarters redundant but clearly salient; the second is new, with an uncertain score."""
    scores, places = torch.tensor([0.9, 0.5, 0.1]), spread(0, 180, 41.4)
    assert kept("pafu", 3, scores=scores, keys=places, budget=2, sink=0, recent=1) == [0, 2]
    assert kept("redundancy", 3, scores=scores, keys=places, budget=2, sink=0, recent=1) == [1, 2]


@pytest.mark.parametrize("policy", ["pafu", "asked"])
def test_of_equally_salient_tokens_those_that_show_more_stay(policy: str) -> None:
    values = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [-4.0, 0.0]]).unsqueeze(1)
    given: dict[str, Any] = {"scores": torch.full((4,), 0.5), "asked": torch.zeros(4), "read_values": lambda: values}
    assert kept(policy, 4, keys=spread(0, 90, 180, 270), budget=2, sink=0, recent=0, **given) == [2, 3]


def test_scores_of_nothing_and_everything_are_still_ranked() -> None:
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert kept("pafu", 4, scores=scores, keys=spread(0, 90, 180, 270), budget=3, sink=0, recent=1) == [0, 2, 3]


def test_oracle_weighs_the_future_by_novelty() -> None:
    keys = spread(0, 90, 0, 180, 270)
    future = torch.tensor([0.9, 0.2, 0.6, 0.1, 0.0])
    assert kept("oracle", 5, future=future, keys=keys, **ROOM) == [1, 2, 4]


def test_a_worth_that_is_no_number_is_not_ranked() -> None:
    keep = policy_named("salience").keep
    assert bool(keep(candidates(8, scores=torch.zeros(8))).sound)
    assert not bool(keep(candidates(8, scores=torch.tensor([0.0] * 7 + [torch.nan]))).sound)


def test_missing_evidence_is_named() -> None:
    with pytest.raises(CacheError, match="needs evidence"):
        kept("oracle", 8)


def test_the_oracle_is_no_policy_for_sessions() -> None:
    assert "oracle" not in SERVED_POLICIES
    with pytest.raises(PolicyError, match="'oracle' is for evaluations only; known policies: full, window"):
        check_room("oracle", 6, 1, 1, "latent frames")


def config(**overrides: Any) -> CacheConfig:
    fields = {
        "policy": "sink_window",
        "budget_latents": 6,
        "sink_latents": 1,
        "recent_latents": 3,
        "position_mode": "relative",
    }
    return CacheConfig(**{**fields, **overrides})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "lru"}, "unknown cache policy 'lru'"),
        ({"budget_latents": 3.5}, r"budget of 3.5 latent frames cannot hold 1 sink \+ 3 recent"),
        (
            {"budget_latents": 0, "sink_latents": 0, "recent_latents": 0},
            "budget of 0 latent frames must be more than 0",
        ),
        ({"budget_latents": float("nan")}, "budget of nan"),
        ({"sink_latents": -1}, "sink of -1"),
        ({"policy": "window"}, "'window' keeps no sink"),
        ({"position_mode": "screen"}, "unknown position mode 'screen'; known modes: relative, absolute"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        config(**change)


def test_budgets_are_latent_frames_and_may_be_fractional() -> None:
    assert config(budget_latents=4.5).budget_tokens(60) == 270


def test_promised_bytes_follow_from_the_geometry() -> None:
    slots = 2 * (10 + 6)
    assert promised_bytes(layers=2, heads=2, head_dim=4, budget=10, chunk=6, dtype="bfloat16") == 640 + slots * 92
    promise = config().promised_bytes(
        layers=8, heads=4, head_dim=64, tokens_per_latent=60, tokens_per_chunk=180, dtype="bfloat16"
    )
    assert promise == 8 * (360 * 2 * 256 * 2 + (360 + 180) * 92)
    with pytest.raises(PolicyError, match="unknown cache dtype 'int3'"):
        promised_bytes(layers=1, heads=1, head_dim=2, budget=1, chunk=1, dtype="int3")


def test_config_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, cache.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
