"""Fused Triton kernels for GPUs. Each has a plain PyTorch twin in ``cache.copies`` that defines its result.

Triton compiles a kernel at its first use. On other devices, or without Triton, the twins run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cache.config import NEAREST

ROWS, COLUMNS, DEPTH = 128, 128, 64  # tile of one product, and inner step of its products


@triton.jit
def _copies_among(
    keys,
    directions,
    latents,
    products,
    places,
    tokens,
    first,
    part,
    width: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # type: ignore[no-untyped-def]
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, tokens - first)
    depth = tl.arange(0, DEPTH)
    own = tl.load(latents + rows, mask=rows < tokens, other=0)
    row_at = keys + rows[:, None] * width + depth[None, :]
    best, place = tl.zeros((ROWS,), dtype=tl.float32), tl.full((ROWS,), -1, dtype=tl.int32)
    for first_column in range(begin, end, COLUMNS):
        columns = first_column + tl.arange(0, COLUMNS)
        column_at = directions + columns[None, :] * width + depth[:, None]
        similar = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, width, DEPTH):
            inside = start + depth < width
            a = tl.load(row_at + start, mask=(rows < tokens)[:, None] & inside[None, :], other=0.0)
            b = tl.load(column_at + start, mask=(columns < end)[None, :] & inside[:, None], other=0.0)
            similar += tl.dot(a, b)
        theirs = tl.load(latents + first + columns, mask=columns < end, other=-1)
        similar = tl.where(theirs[None, :] > own[:, None], similar, 0.0)
        highest, at = tl.max(similar, 1, return_indices=True)
        place = tl.where(highest > best, first + first_column + at, place)
        best = tl.maximum(best, highest)
    to = rows * PARTS + tl.program_id(1)
    tl.store(products + to, best, mask=rows < tokens)
    tl.store(places + to, place, mask=rows < tokens)


def copies_among(keys: Tensor, directions: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the keys (n, width), and each NEAREST-th part of the newest ones' ``directions`` (c, width): the
    highest product with a direction of a later latent frame, at least 0, and where that token is; NOWHERE for 0. Both
    (n, NEAREST); latents (n,) int64."""
    (tokens, width), newest = keys.shape, len(directions)
    products = torch.empty(tokens, NEAREST, device=keys.device)
    places = torch.empty(tokens, NEAREST, dtype=torch.int32, device=keys.device)
    given = (keys.contiguous(), directions.contiguous(), latents, products, places)
    sizes = (tokens, tokens - newest, triton.cdiv(newest, NEAREST), width)
    grid = (triton.cdiv(tokens, ROWS), NEAREST)
    _copies_among[grid](*given, *sizes, NEAREST, ROWS, COLUMNS, DEPTH, num_warps=8, num_stages=3)
    return products, places
