"""Measures of what makes a token worth keeping: pure functions of queries and keys, independent of model and cache.

``P`` is softmax(q kᵀ / √D). Queries come in blocks, so that no square matrix of a long sequence is ever in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

QUERY_BLOCK = 256  # rows of P in memory at once
MOST_NUMBERS = 2**25  # of a slice of P over all heads; long clips take fewer rows at once
CERTAIN = 0.98  # upper limit of P in ``effect``, which divides by 1 - P
Reduce = Literal["max", "mean"]
Scale = Literal["rank", "robust", "clip", "both"]


def received_attention(q: Tensor, keys: Tensor, reduce: Reduce = "mean", rows: int = QUERY_BLOCK) -> Tensor:
    """For each key, the mean over heads of the ``reduce`` over queries of P. q (S, H, D) and keys (n, H, D), both
    rotated -> (n,) float32."""
    return attention_by_head(q, keys, reduce, rows).mean(0)


def attention_by_head(q: Tensor, keys: Tensor, reduce: Reduce = "mean", rows: int = QUERY_BLOCK) -> Tensor:
    """As ``received_attention``, for each head: (H, n)."""
    total = torch.zeros(keys.shape[1], keys.shape[0], device=keys.device)
    keys_t = keys.float().permute(1, 2, 0)
    by_head = q.float().transpose(0, 1)
    for start in range(0, q.shape[0], rows):
        p = _rows(by_head[:, start : start + rows], keys_t)
        total = torch.maximum(total, p.amax(1)) if reduce == "max" else total + p.sum(1) / q.shape[0]
    return total


def kernel_densities(keys: Tensor) -> Tensor:
    """Student kernel between all keys, (1 + |k_i - k_j|^2 / (d / 2))^-2 with d numbers per key: (n, H, D) -> (n, n)."""
    flat = keys.flatten(1).float()
    distance = (flat.square().sum(1, keepdim=True) + flat.square().sum(1) - 2 * flat @ flat.T).clamp(min=0)
    return (1 + distance / (flat.shape[1] / 2)).reciprocal().square()


def expected_affinity(q: Tensor, keys: Tensor, now: Tensor, ahead: Tensor) -> Tensor:
    """The product that each key may expect from later queries, if these are like the newest ones (TriAttention).

    Only the channels that time rotates, as complex numbers: q (m, H, F) before and keys (n, H, F) after their rotation
    by time, now (F,) the rotation of the newest position, ahead (offsets, F) the further rotations of later positions.
    Per head: the mean over the offsets of the product with the mean query, plus what the queries' magnitudes exceed
    those of their mean by; as a z-score over the keys. Returns its mean over heads, (n,).
    """
    mean = q.mean(0)
    later = mean * now * ahead.mean(0)  # the product is linear in the rotation
    product = (later * keys.conj()).real.sum(-1)
    spread = ((q.abs().mean(0) - mean.abs()) * keys.abs()).sum(-1)
    score = product + spread
    centered = score - score.mean(0)
    return (centered / centered.square().mean(0).sqrt().clamp(min=1e-6)).mean(1)


def mean_affinity(q: Tensor, keys: Tensor) -> Tensor:
    """Mean over heads and queries of q k / sqrt(D): q (S, H, D) and keys (n, H, D), both rotated -> (n,) float32.
    Queries are summed first, which leaves one matrix-vector product."""
    mean = q.float().mean(0)
    return (keys.float() * mean).sum(-1).mean(-1) / math.sqrt(q.shape[-1])


@dataclass(frozen=True)
class SalienceParts:
    """For every key (n,): its salience for queries of later blocks (``low``), its own block (``diag``) and earlier ones
    (``up``)."""

    low: Tensor
    diag: Tensor
    up: Tensor


def salience_parts(
    q: Tensor,
    k: Tensor,
    block: int,
    *,
    v: Tensor | None = None,
    reduce: Reduce = "max",
    gap: int = 1,
    rows: int = QUERY_BLOCK,
) -> SalienceParts:
    """The three parts of the balanced salience: the mean over heads of the ``reduce`` over queries of P or, with values
    ``v``, of the key's ``effect`` on a query.

    q, k, v (H, n, D), q and k rotated, of one bidirectional clip in temporal blocks of ``block`` tokens. ``low`` counts
    queries at least ``gap`` blocks after the key's block, ``up`` queries of any earlier block. Rows of P are normalized
    over all keys. At most one slice of H x rows x n numbers is in memory (two with values), never more than
    MOST_NUMBERS. A part without queries (``low`` of the last block) is 0. Raises ValueError for incomplete blocks.
    """
    heads, tokens, _ = k.shape
    if tokens % block or block < 1 or gap < 1:
        raise ValueError(f"{tokens} tokens in blocks of {block} with a gap of {gap}: need whole blocks, a gap >= 1")
    parts = {name: torch.zeros(heads, tokens, device=k.device) for name in ("low", "diag", "up")}
    keys_t = k.float().transpose(1, 2)
    rows = max(1, min(rows, MOST_NUMBERS // (heads * tokens)))
    for start in range(0, tokens, block):
        for first in range(start, start + block, rows):
            p = _rows(q[:, first : min(first + rows, start + block)].float(), keys_t)
            each = p if v is None else effect(p, v.float())
            seen = each.amax(1) if reduce == "max" else each.sum(1)
            for name, keys in _ranges(start, block, gap, tokens).items():
                part = parts[name][:, keys]
                part.copy_(torch.maximum(part, seen[:, keys]) if reduce == "max" else part + seen[:, keys])
    if reduce == "mean":
        _divide_by_queries(parts, tokens, block, gap)
    return SalienceParts(**{name: part.mean(0) for name, part in parts.items()})


def effect(p: Tensor, v: Tensor) -> Tensor:
    """How far each query's output moves if one key is left out: P / (1 - P) x |v - o|, where o is the output.

    This is exact per head, since leaving a key out divides the rest of the row by 1 - P. A key with many copies has
    little effect, however much attention it gets. p (H, r, n) rows of P, v (H, n, D) -> (H, r, n). The distance is
    computed in float64: it is the root of a difference of squares, which float32 cancels where the output is close to
    the value.
    """
    distance = torch.cdist((p @ v).double(), v.double()).float()
    return distance.mul_(p).div_((1 - p).clamp(min=1 - CERTAIN))


def _ranges(start: int, block: int, gap: int, tokens: int) -> dict[str, slice]:
    """By part, the keys for which a query block that begins at ``start`` counts."""
    return {
        "low": slice(0, max(0, start - (gap - 1) * block)),
        "diag": slice(start, start + block),
        "up": slice(start + block, tokens),
    }


def _divide_by_queries(parts: dict[str, Tensor], tokens: int, block: int, gap: int) -> None:
    key_block = torch.arange(tokens, device=parts["low"].device) // block
    later = (tokens // block - gap - key_block).clamp(min=0) * block
    for name, queries in (("low", later), ("diag", torch.full_like(later, block)), ("up", key_block * block)):
        parts[name] /= queries.clamp(min=1)


def _rows(q: Tensor, keys_t: Tensor) -> Tensor:
    """Rows of P: q (H, r, D), keys_t (H, D, n) -> (H, r, n)."""
    return torch.softmax((q * q.shape[-1] ** -0.5) @ keys_t, -1)


def balanced_salience(
    parts: SalienceParts, block: int, weights: tuple[float, float, float], scale: Scale = "rank"
) -> Tensor:
    """(n,) in [0, 1]: the weighted mean of the parts after each is rescaled.

    With one global maximum the diagonal would win: local attention is far stronger than attention across time. "rank"
    and "robust" rescale inside the key's temporal block. "clip" ranks over the whole clip, so that a block without
    anything important stays low; it favors earlier blocks, which more queries follow. "both" is the mean of "rank" and
    "clip". Raises ValueError for an unknown scale or impossible weights.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(get_args(Scale))}")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights of low, diag, up are {weights}: none may be negative, one must be positive")
    scaled = (_scaled(part, block, scale) for part in (parts.low, parts.diag, parts.up))
    return torch.stack([w * part for w, part in zip(weights, scaled, strict=True)]).sum(0) / sum(weights)


def _scaled(part: Tensor, block: int, scale: Scale) -> Tensor:
    if scale == "robust":
        return _robust(part, block)
    if scale == "both":
        return (_ranked(part, block) + _ranked(part, len(part))) / 2
    return _ranked(part, len(part) if scale == "clip" else block)


def shared_salience(rows: Tensor, block: int, scale: Scale = "rank") -> Tensor:
    """One salience for all layers, (layers, n) -> (n,): the mean of the deeper half, ranked again.

    A place is recalled through all layers or not at all, and the first layers carry little information about what will
    matter.
    """
    return _scaled(rows[len(rows) // 2 :].mean(0), block, scale)


def _ranked(part: Tensor, block: int) -> Tensor:
    """Rank inside the block, 0 (least) to 1 (most); ties share the mean of their ranks."""
    blocks = part.contiguous().view(-1, block)
    order = blocks.sort(1).values
    below = torch.searchsorted(order, blocks, right=False)
    upto = torch.searchsorted(order, blocks, right=True)
    return ((below + upto - 1) / 2 / max(1, block - 1)).flatten()


def _robust(part: Tensor, block: int) -> Tensor:
    """Distance from the block's median in units of its 5 to 95 % spread, squashed into [0, 1]."""
    blocks = part.contiguous().view(-1, block)
    low, middle, high = (blocks.quantile(q, 1, keepdim=True) for q in (0.05, 0.5, 0.95))
    return torch.sigmoid(4 * (blocks - middle) / (high - low).clamp(min=1e-12)).flatten()
