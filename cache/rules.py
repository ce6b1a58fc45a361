"""Rules without learning that the field prunes by: baselines that a learned salience has to beat.

Each follows its published rule, on this cache: one choice a layer for all heads, sink and recent tokens kept besides.
Where a rule was changed to fit, its docstring says so.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cache.policy import VALUE_POWER, Candidates, Competing, distinctness, given, novelty
from cache.scoring import kernel_densities

HALF_LIFE = 0.9  # of the attention received, from chunk to chunk
RKV_LAMBDA = 0.1  # weight of attention against redundancy, as R-KV has it (2505.24133)
MOST_VIEWS = 24  # latent frames that fov ranks; more are taken by age
AGEING = 0.2  # of a whole stream's age against a whole view
CROWDED = 2.0  # times the density at insertion: a token that others stand in for
DROPPED = 1e6  # worth of a new token that density does not let in, below everything else


class HeavyHitters(Competing):
    """H2O (2306.14048) with decay: attention received, of which every chunk forgets a tenth."""

    name = "h2o"
    needs = frozenset({"attention"})

    def update(self, candidates: Candidates) -> Tensor:
        return HALF_LIFE * candidates.scores + given(candidates.attention, "attention")

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Tova(Competing):
    """TOVA and SnapKV: what the newest chunk attends to, and nothing of what was before."""

    name = "tova"
    needs = frozenset({"attention"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.attention, "attention")


class TextTopK(Competing):
    """MemFlow: whole latent frames by the mean product of the prompt's keys with theirs."""

    name = "text_topk"
    needs = frozenset({"told"})

    def worth(self, candidates: Candidates) -> Tensor:
        together = candidates.latents[:, None] == candidates.latents
        told = given(candidates.told, "told")
        return together.float() @ told / together.sum(1)


class FieldOfView(Competing):
    """WorldMem, HY-WorldPlay, Matrix-Game 3: one latent frame after the other, by how much of the coming view it shows
    that none before it does, minus .2 of its age. The coming view is the newest chunk's: nobody knows more at commit.
    """

    name = "fov"
    ranks_scores = False

    def worth(self, candidates: Candidates) -> Tensor:
        latents, columns = candidates.latents, candidates.positions[:, 2]
        together = latents[:, None] == latents
        left = torch.where(together, columns, torch.inf).amin(1)
        right = torch.where(together, columns, -torch.inf).amax(1)
        coming = columns[-candidates.fresh :]  # of the newest chunk: one view, or a pan
        shows = (left[:, None] <= coming) & (coming <= right[:, None])
        age = (latents[-1] - latents) / latents[-1].clamp(min=1)
        worth, hidden = -age, torch.ones_like(coming, dtype=torch.bool)
        for place in range(MOST_VIEWS):
            gain = (shows & hidden).float().mean(1) - AGEING * age - worth.clamp(min=0)
            best = gain.argmax(0, keepdim=True)  # a tensor: nobody waits for the device
            worth = torch.where(latents == latents.gather(0, best), float(MOST_VIEWS - place), worth)
            hidden = hidden & ~shows.index_select(0, best)[0]
        return worth


class RecentQuery(Competing):
    """Deep Forcing: the product of the newest queries' sum with each key. Its window of four latent frames is a chunk
    here."""

    name = "recent_query"
    needs = frozenset({"affinity"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.affinity, "affinity")


class KeyDifference(Competing):
    """KeyDiff (2504.15364): keys that differ most from the mean direction of all, per head."""

    name = "keydiff"

    def worth(self, candidates: Candidates) -> Tensor:
        directions = normalize(candidates.keys.float(), dim=-1)
        return -(directions * normalize(directions.mean(0, keepdim=True), dim=-1)).sum(-1).mean(-1)


class ValueNovelty(Competing):
    """Values far from the mean, unless a newer key repeats the token: InfiniPot-V's value norm, x novelty."""

    name = "value_novelty"

    def worth(self, candidates: Candidates) -> Tensor:
        return distinctness(candidates) ** VALUE_POWER * novelty(candidates)


class RKV(Competing):
    """R-KV: attention of the newest chunk against redundancy, lambda I - (1 - lambda) R."""

    name = "rkv"
    needs = frozenset({"attention"})

    def worth(self, candidates: Candidates) -> Tensor:
        attention = given(candidates.attention, "attention")
        redundancy = 1 - novelty(candidates)
        return RKV_LAMBDA * attention / attention.amax() - (1 - RKV_LAMBDA) * redundancy


class Density(Competing):
    """DensityKV: tokens that have become crowded since they came go first.

    rho is the sum of a Student kernel to all others, rho0 what it was at insertion (kept as the score). New tokens
    come in the order of how little they crowd the old ones, as many as leave no more old tokens at twice their rho0
    than must go; those old ones go, then the densest.
    """

    name = "density"

    def update(self, candidates: Candidates) -> Tensor:
        fresh = kernel_densities(candidates.keys)[-candidates.fresh :].sum(1) - 1
        return torch.cat((candidates.scores[: -candidates.fresh], fresh))

    def worth(self, candidates: Candidates) -> Tensor:
        close, rho0 = kernel_densities(candidates.keys), candidates.scores.clamp(min=1e-6)
        old = candidates.count - candidates.fresh
        crowding = (close[:old, old:] / rho0[:old, None]).amax(0) if old else close.new_zeros(candidates.fresh)
        order = crowding.argsort()
        rho = close[:old, :old].sum(1) - 1
        crowded = (rho[:, None] + close[:old, old:][:, order].cumsum(1)) / rho0[:old, None] >= CROWDED
        let_in = torch.zeros(candidates.fresh, dtype=torch.bool, device=rho.device)
        let_in[order] = crowded.sum(0) <= candidates.count - candidates.budget
        present = torch.cat((torch.ones(old, dtype=torch.bool, device=rho.device), let_in))
        ratio = (close @ present.to(close.dtype) - 1) / rho0
        return torch.where(present, -ratio, -DROPPED)
