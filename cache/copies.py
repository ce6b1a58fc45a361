"""Which newer tokens repeat a token. Each pair of tokens is compared once, when the newer one is committed.

A token stores its nearest newer tokens, so a commit compares only the open chunk with all others: at a budget of 18
latent frames that is a third of all pairs. A token counts again after all its stored copies were evicted, even if a
more distant one is left. With NEAREST of 8, more than 99 % of the kept tokens are those of a full comparison
(docs/method.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from cache.config import NEAREST

log = logging.getLogger("pafu.cache")
ROWS = 4096  # of the products of all keys with the chunk's that are in memory at once
NOWHERE = -1
LEAST_LENGTH = 1e-12  # of a key, which divides


class Copies(NamedTuple):
    """Of each token its nearest newer tokens, in later latent frames."""

    cosines: Tensor  # (n, NEAREST) float32 in [0, 1], with all heads of a key as one vector; 0 for none
    places: Tensor  # (n, NEAREST) int32: indices among the tokens of the layer, NOWHERE for none

    def redundancy(self, weight: Tensor | None = None) -> Tensor:
        """How well a newer token repeats each token, (n,) in [0, 1]. With ``weight`` (n,) > 0, a newer token of lower
        weight counts proportionally less."""
        if weight is None:
            return self.cosines.amax(1)
        theirs = weight[self.places.long().clamp(min=0)]
        return (self.cosines * (theirs / weight.unsqueeze(1)).clamp(max=1)).amax(1)


def none_yet(tokens: int, device: torch.device | str) -> Copies:
    """Tokens without copies."""
    shape = (tokens, NEAREST)
    places = torch.full(shape, NOWHERE, dtype=torch.int32, device=device)
    return Copies(torch.zeros(shape, device=device), places)


def nearest_copies(keys: Tensor, latents: Tensor, known: Copies | None = None) -> Copies:
    """The copies of all tokens, whose first ones are compared already, as ``known`` says: keys (n, H, D), latents (n,)
    ascending. Products run in the keys' dtype, on CUDA in a fused kernel."""
    flat = keys.flatten(1)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True, dtype=torch.float32).clamp(min=LEAST_LENGTH)
    known = none_yet(0, keys.device) if known is None else known
    first = len(known.cosines)
    directions = (flat[first:] / length[first:]).to(flat.dtype)
    fused = fused_copies(keys.device) if keys.device.type == "cuda" else None
    products, places = (fused or copies_among)(flat, directions, latents)
    none = none_yet(len(flat) - first, keys.device)
    before = torch.cat((known.cosines.masked_fill(known.places < 0, 0), none.cosines))
    best = torch.cat((before, (products / length).clamp(max=1)), 1).topk(NEAREST)
    all_places = torch.cat((torch.cat((known.places, none.places)), places), 1)
    return Copies(best.values, all_places.gather(1, best.indices))


def copies_among(keys: Tensor, directions: Tensor, latents: Tensor, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """For each of the keys (n, width), and each NEAREST-th part of the newest ones' ``directions`` (c, width): the
    highest product with a direction of a later latent frame, at least 0, and where that token is; NOWHERE for 0. Both
    (n, NEAREST)."""
    first, found = len(keys) - len(directions), []
    part = -(-len(directions) // NEAREST)
    missing = NEAREST * part - len(directions)  # padding, which no token resembles
    candidates, later = pad(directions, (0, 0, 0, missing)).T, pad(latents[first:], (0, missing), value=NOWHERE)
    for start in range(0, len(keys), rows):
        similar = keys[start : start + rows] @ candidates
        if start + rows > first:  # rows before ``first`` are older than all candidates
            similar = similar.masked_fill(later <= latents[start : start + rows].unsqueeze(1), 0)
        found.append(similar.unflatten(1, (NEAREST, part)).max(-1))
    products = torch.cat([each.values for each in found]).float().clamp(min=0)
    offset = first + part * torch.arange(NEAREST, device=keys.device)
    places = torch.cat([each.indices for each in found]) + offset
    return products, torch.where(products > 0, places, NOWHERE).int()


@cache
def fused_copies(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """The fused twin of ``copies_among``; None, after one warning, if Triton is missing or cannot compile."""
    try:
        from cache.kernels import copies_among as fused

        ones = torch.ones(2, 64, device=device)
        fused(ones, ones, torch.arange(2, device=device))
    except Exception as error:  # no Triton, no C compiler, an unknown GPU: each has an exception of its own
        log.warning("pruning runs without its fused kernel: %s", str(error).strip().partition("\n")[0])
        return None
    return fused
