"""Fused Triton kernels for GPUs. Each has a plain PyTorch twin in ``cache.scoring`` that defines its result.

Triton compiles a kernel at its first use. On other devices, or without Triton, the twins run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, DEPTH = 128, 128, 64  # tile of one program, and inner step of its products


@triton.jit
def _highest_cosines(
    directions,
    latents,
    highest,
    tokens,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # type: ignore[no-untyped-def]
    first_row, first_column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    newest = tl.load(latents + tl.minimum(first_column + COLUMNS, tokens) - 1)
    oldest = tl.load(latents + first_row)
    if newest > oldest:  # otherwise no column of this tile is newer than any of its rows
        rows, columns = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        similar = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        row_at = directions + rows[:, None] * width + depth[None, :]
        column_at = directions + columns[None, :] * width + depth[:, None]
        for start in range(0, width, DEPTH):
            inside = start + depth < width
            a = tl.load(row_at + start, mask=(rows < tokens)[:, None] & inside[None, :], other=0.0)
            b = tl.load(column_at + start, mask=(columns < tokens)[None, :] & inside[:, None], other=0.0)
            similar += tl.dot(a, b)
        own = tl.load(latents + rows, mask=rows < tokens, other=0)
        theirs = tl.load(latents + columns, mask=columns < tokens, other=-1)
        similar = tl.where(theirs[None, :] > own[:, None], similar, 0.0)
        tl.atomic_max(highest + rows, tl.maximum(tl.max(similar, 1), 0.0), mask=rows < tokens)


def highest_cosines(directions: Tensor, latents: Tensor) -> Tensor:
    """For each direction (n, width), the highest product with a direction of a later latent frame, at least 0: (n,)
    float32.

    latents (n,) int64, ascending. The result does not depend on the order of the tiles.
    """
    tokens, width = directions.shape
    highest = torch.zeros(tokens, device=directions.device)
    grid = (triton.cdiv(tokens, ROWS), triton.cdiv(tokens, COLUMNS))
    _highest_cosines[grid](
        directions.contiguous(), latents, highest, tokens, width, ROWS, COLUMNS, DEPTH, num_warps=8, num_stages=3
    )
    return highest
