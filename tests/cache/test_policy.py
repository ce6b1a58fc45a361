"""Policies are pure: numbers in, kept indices out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cache.config import POLICY_NAMES, CacheConfig, promised_bytes
from cache.errors import CacheFull, PolicyError
from cache.policy import POLICIES, Candidates, policy_named


def candidates(count: int, **overrides: Any) -> Candidates:
    fields = {
        "positions": torch.zeros(count, 3),
        "latents": torch.arange(count),
        "keys": torch.zeros(count, 1, 2),
        "values": torch.zeros(count, 1, 2),
        "scores": torch.zeros(count),
        "budget": 6,
        "sink": 2,
        "recent": 2,
        "seed": 1,
        "chunk": 0,
        "layer": 0,
    }
    return Candidates(**{**fields, **overrides})


def kept(policy: str, count: int, **overrides: Any) -> list[int]:
    return policy_named(policy).keep(candidates(count, **overrides)).tolist()


def test_every_listed_policy_exists() -> None:
    assert tuple(POLICIES) == POLICY_NAMES


@pytest.mark.parametrize("policy", POLICY_NAMES)
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
    for chunk in range(600):
        indices = kept("random", 10, chunk=chunk)
        assert len(set(indices)) == 6 and {0, 1, 8, 9} <= set(indices)
        drawn[indices] += 1
    assert bool((drawn[2:8] - 200).abs().max() < 50), "each of six competes for two places"


def test_random_depends_on_seed_chunk_and_layer_alone() -> None:
    assert kept("random", 40) == kept("random", 40)
    for change in ({"seed": 2}, {"chunk": 1}, {"layer": 1}):
        assert kept("random", 40, **change) != kept("random", 40), change


def test_an_unknown_policy_is_named_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="unknown cache policy 'lru'; known policies: full, window"):
        policy_named("lru")


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
    assert promised_bytes(layers=2, heads=2, head_dim=4, budget=10, chunk=6, dtype="bfloat16") == slots * (32 + 24)
    promise = config().promised_bytes(
        layers=8, heads=4, head_dim=64, tokens_per_latent=60, tokens_per_chunk=180, dtype="bfloat16"
    )
    assert promise == 8 * (360 + 180) * (2 * 256 * 2 + 24)
    with pytest.raises(PolicyError, match="unknown cache dtype 'int3'"):
        promised_bytes(layers=1, heads=1, head_dim=2, budget=1, chunk=1, dtype="int3")


def test_config_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, cache.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
