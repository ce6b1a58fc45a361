"""Which tokens stay: pure functions from candidates to kept indices, one layer at a time.

Sink tokens (the first ever) and recent tokens (the newest) always stay; the rest compete for what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cache.config import POLICY_NAMES
from cache.errors import CacheFull, PolicyError

SEED_PRIME = 1_000_003  # spreads (seed, chunk, layer) over the generator's seeds
SEED_LIMIT = 2**63


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens of one layer after a chunk was written, oldest first: n = kept + chunk."""

    positions: Tensor  # (n, 3) float32, (t, h, w) as given, never re-indexed
    latents: Tensor  # (n,) int64, latent frame of each token since the stream began
    keys: Tensor  # (n, H, D), un-rotated
    values: Tensor  # (n, H, D)
    scores: Tensor  # (n,) float32, given when the token was committed; 0 without a score
    budget: int
    sink: int
    recent: int
    seed: int
    chunk: int  # chunks committed before this one
    layer: int

    @property
    def count(self) -> int:
        return self.latents.shape[0]


class Policy(Protocol):
    """Numbers in, kept indices out; knows no model and keeps no state."""

    name: str

    def keep(self, candidates: Candidates) -> Tensor:
        """Sorted int64 indices of at most ``budget`` tokens, sink and recent ones among them."""
        ...


def keep_best(candidates: Candidates, priority: Tensor) -> Tensor:
    """Sink, recent, and of the rest those of highest ``priority`` (n,): the shape of every competing policy."""
    if candidates.count <= candidates.budget:
        return torch.arange(candidates.count, device=priority.device)
    priority = priority.clone()
    priority[: candidates.sink] = torch.inf
    priority[candidates.count - candidates.recent :] = torch.inf
    return priority.topk(candidates.budget).indices.sort().values


class Full:
    """Keeps everything and refuses to overflow: the reference that other policies are compared with."""

    name = "full"

    def keep(self, candidates: Candidates) -> Tensor:
        if candidates.count > candidates.budget:
            raise CacheFull(
                f"policy 'full' never evicts, and {candidates.count} tokens do not fit its budget of "
                f"{candidates.budget}: raise the budget, end the stream here, or choose another policy"
            )
        return torch.arange(candidates.count, device=candidates.latents.device)


class Window:
    """Keeps the newest tokens."""

    name = "window"

    def keep(self, candidates: Candidates) -> Tensor:
        first = max(0, candidates.count - candidates.budget)
        return torch.arange(first, candidates.count, device=candidates.latents.device)


class SinkWindow:
    """Keeps the first tokens ever and the newest ones (LongLive)."""

    name = "sink_window"

    def keep(self, candidates: Candidates) -> Tensor:
        age = torch.arange(candidates.count, dtype=torch.float32, device=candidates.latents.device)
        return keep_best(candidates, age)


class Random:
    """Keeps sink, recent, and a uniform choice of the rest, redrawn at each commit from (seed, chunk, layer)."""

    name = "random"

    def keep(self, candidates: Candidates) -> Tensor:
        seed = (candidates.seed * SEED_PRIME + candidates.chunk) * SEED_PRIME + candidates.layer
        generator = torch.Generator().manual_seed(seed % SEED_LIMIT)
        priority = torch.rand(candidates.count, generator=generator)
        return keep_best(candidates, priority.to(candidates.latents.device))


POLICIES: dict[str, Policy] = {policy.name: policy for policy in (Full(), Window(), SinkWindow(), Random())}


def policy_named(name: str) -> Policy:
    """The policy called ``name``. Raises PolicyError naming the known ones."""
    if name not in POLICIES:
        raise PolicyError(f"unknown cache policy {name!r}; known policies: {', '.join(POLICY_NAMES)}")
    return POLICIES[name]
