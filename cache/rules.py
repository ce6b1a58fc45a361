"""Pruning rules without learning, from the literature: baselines that a learned salience has to beat.

Each follows its published rule, adapted to this cache: one choice per layer for all heads, with sink and recent tokens
kept in addition. The docstring says where a rule was changed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cache.policy import (
    COPIES,
    COPIES_AND_VALUES,
    KEYS,
    VALUE_POWER,
    Attention,
    Candidates,
    Choice,
    Competing,
    Merge,
    Window,
    distinctness,
    given,
    novelty,
    others,
)
from cache.scoring import kernel_densities
from cache.storage import added_up
from cache.views import covering, worth_of_views

HALF_LIFE = 0.9  # factor by which received attention decays per chunk
RKV_LAMBDA = 0.1  # weight of attention against redundancy, as in R-KV (2505.24133)
CROWDED = 2.0  # times the density at insertion, from which a token counts as crowded
DROPPED = 1e6  # worth (negated) of a new token that density does not admit


class HeavyHitters(Competing):
    """H2O (2306.14048) with decay: the attention received so far, which decays by a tenth per chunk."""

    name = "h2o"
    needs = frozenset({"attention"})

    def update(self, candidates: Candidates) -> Tensor:
        return HALF_LIFE * candidates.scores + given(candidates.attention, "attention")

    def worth(self, candidates: Candidates) -> Tensor:
        return candidates.scores


class Tova(Competing):
    """TOVA and SnapKV: the attention of the newest chunk only."""

    name = "tova"
    needs = frozenset({"attention"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.attention, "attention")


class Pyramid(Competing):
    """PyramidKV with Ada-KV (2407.11550): lower layers have larger budgets (``config.layer_budgets``), and the heads of
    a layer compete for its places by the newest chunk's attention. Heads share their tokens here: a token is kept for
    all heads if the attention of any is among the highest. The maximum over neighboring tokens is left out."""

    name = "pyramid"
    needs = frozenset({"strongest"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.strongest, "strongest")


class TextTopK(Competing):
    """MemFlow: whole latent frames, ranked by the mean product of the prompt's keys with the frame's keys."""

    name = "text_topk"
    needs = frozenset({"told"})

    def worth(self, candidates: Candidates) -> Tensor:
        together = candidates.latents[:, None] == candidates.latents
        told = given(candidates.told, "told")
        return together.float() @ told / together.sum(1)


class FieldOfView(Competing):
    """WorldMem, HY-WorldPlay, Matrix-Game 3: picks one latent frame after another, each time the one that shows most of
    the coming view that the frames before it do not show, minus .2 of its age. The newest chunk's view stands for the
    coming view, since commit knows nothing later."""

    name = "fov"
    ranks_scores = False

    def worth(self, candidates: Candidates) -> Tensor:
        latents, columns = candidates.latents, candidates.positions[:, 2]
        together = latents[:, None] == latents
        left = torch.where(together, columns, torch.inf).amin(1)
        right = torch.where(together, columns, -torch.inf).amax(1)
        shows = covering(left, right, columns[-candidates.fresh :])  # one view, or a pan
        return worth_of_views(latents, shows)


class Retrieval(Window):
    """WorldKV (2605.22718): evicted tokens wait in host memory. When a chunk begins, those of the latent frames that
    show most of its view come back, as many as the budget holds beside sink and recent tokens. WorldKV retrieves whole
    chunks."""

    name = "retrieval"
    recalls = True


class SalientRetrieval(Retrieval):
    """Ours: as ``retrieval``, but a latent frame shows a place only as far as its tokens there stand out from their
    surroundings, so that fog before a house does not stand for the house."""

    name = "salient_retrieval"


class RecentQuery(Competing):
    """Deep Forcing: the product of each key with the sum of the newest queries. Its window of four latent frames is one
    chunk here."""

    name = "recent_query"
    needs = frozenset({"affinity"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.affinity, "affinity")


class Trigonometric(Competing):
    """TriAttention: the product with queries like the newest chunk's mean, 1, 2, 4 .. 128 positions later, from the
    channels that time rotates. Its score is a mean over layers; here each layer chooses for itself."""

    name = "trig"
    needs = frozenset({"expected"})

    def worth(self, candidates: Candidates) -> Tensor:
        return given(candidates.expected, "expected")


class Merging(Attention):
    """D2O (2406.13035): of the tokens that attention would evict, each that resembles a kept token is merged into it,
    weighted by its similarity. Keys are averaged as they are stored, rotated. D2O smooths the threshold over steps;
    here it is the mean similarity of one commit, which evicts many tokens at once. Its budgets per layer are left
    out."""

    name = "merging"
    reads = KEYS

    def keep(self, candidates: Candidates) -> Choice:
        choice, same = super().keep(candidates), Merge.nothing(candidates.scores)
        gone = others(choice.indices, candidates.count)
        if not len(gone):
            return choice._replace(merge=same)
        directions = normalize(candidates.keys.flatten(1), dim=-1)
        nearest = (directions[gone] @ directions[choice.indices].T).float().max(1)
        similar = torch.where(nearest.values >= nearest.values.mean(), nearest.values.exp(), 0)
        onto = choice.indices[nearest.indices]
        shares = torch.full_like(same.weights, math.e).scatter(0, gone, similar)
        places = same.onto.scatter(0, gone, onto)
        total = added_up(shares, places, candidates.count)
        return choice._replace(merge=Merge(places, shares / total[places]))


class KeyDifference(Competing):
    """KeyDiff (2504.15364): per head, keys that differ most from the mean direction of all keys."""

    name = "keydiff"
    reads = KEYS

    def worth(self, candidates: Candidates) -> Tensor:
        directions = normalize(candidates.keys.float(), dim=-1)
        return -(directions * normalize(directions.mean(0, keepdim=True), dim=-1)).sum(-1).mean(-1)


class ValueNovelty(Competing):
    """Values far from the mean that no newer key repeats: InfiniPot-V's value norm x novelty."""

    name = "value_novelty"
    reads = COPIES_AND_VALUES

    def worth(self, candidates: Candidates) -> Tensor:
        return distinctness(candidates) ** VALUE_POWER * novelty(candidates)


class RKV(Competing):
    """R-KV: attention of the newest chunk against redundancy, lambda I - (1 - lambda) R."""

    name = "rkv"
    needs = frozenset({"attention"})
    reads = COPIES

    def worth(self, candidates: Candidates) -> Tensor:
        attention = given(candidates.attention, "attention")
        redundancy = 1 - novelty(candidates)
        return RKV_LAMBDA * attention / attention.amax() - (1 - RKV_LAMBDA) * redundancy


class Density(Competing):
    """DensityKV: tokens that have become crowded since their insertion are evicted first.

    rho is the sum of a Student kernel to all other tokens; rho0 is its value at insertion, stored as the score. New
    tokens are admitted in the order of how little they crowd the old ones, as long as the old tokens above twice their
    rho0 do not outnumber those that must go. Those are evicted first, then the densest.
    """

    name = "density"
    reads = KEYS

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
