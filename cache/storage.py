"""Where keys and values lie: a session's store keeps its committed tokens, the workspace is what attention reads.

A worker makes one chunk at a time, so sessions share one workspace: kept tokens are copied into it when a chunk begins,
and what a session owns for itself is its budget and no more. Its addresses never change, so a captured graph of a pass
serves every session of the same size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cache.errors import CacheError

MOST_TEMPORARY = 2**27  # bytes that a step over several layers may take at once: more layers are taken in turns


class Workspace:
    """Keys and values of one chunk and of all that it may attend to: kept tokens, oldest first, then the chunk.

    ``fresh`` are the chunk's keys as they will be kept: not turned by time yet. ``user`` is who opened a chunk last.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        chunk: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.fresh = torch.zeros(layers, chunk, heads, head_dim, dtype=dtype, device=device)
        self.keys = self.values = self.fresh[:, :0]
        self.user: object = None
        self.grow(slots)

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.keys, self.values, self.fresh))

    def grow(self, slots: int) -> None:
        """Have at least so many slots; addresses change when there were fewer, and an open chunk is dropped."""
        if self.slots < slots:
            self.user = None
            self.keys = self.values = self.fresh[:, :0]  # the old ones go before the new ones come
            layers, _, *row = self.fresh.shape
            self.keys = self.fresh.new_zeros(layers, slots, *row)
            self.values = torch.zeros_like(self.keys)

    def check_fits(self, layers: int, chunk: int, heads: int, head_dim: int) -> None:
        """Raise CacheError unless a cache of this geometry can use it."""
        found, needed = tuple(self.fresh.shape), (layers, chunk, heads, head_dim)
        if found != needed:
            raise CacheError(f"the workspace has (layers, chunk, heads, head_dim) {found}, this cache has {needed}")


def at_once(token_bytes: int, tokens: int, layers: int) -> int:
    """Layers whose ``tokens`` may be copied together without taking more than MOST_TEMPORARY bytes."""
    return max(1, min(layers, MOST_TEMPORARY // max(1, token_bytes * tokens)))


def gathered(rows: Tensor, indices: Tensor) -> Tensor:
    """Rows (l, n, ...) at ``indices`` (l, k), layer by layer -> (l, k, ...)."""
    shape = indices.shape + (1,) * (rows.dim() - 2)
    return rows.gather(1, indices.view(shape).expand(*indices.shape, *rows.shape[2:]))


class Rows:
    """One kind of row (keys or values) of all layers' committed tokens, as they are: (layers, budget, H, D)."""

    def __init__(
        self, layers: int, budget: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._rows = torch.zeros(layers, budget, heads, head_dim, dtype=dtype, device=device)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the suffix of its name in a snapshot."""
        return {"": self._rows}

    def read(self, layers: slice, count: int) -> Tensor:
        """The first ``count`` rows of some layers (l, count, H, D)."""
        rows: Tensor = self._rows[layers, :count]
        return rows

    def append(self, layers: slice, kept: int, new: Tensor) -> None:
        """Write ``new`` (l, k, H, D) behind the ``kept`` rows."""
        self._rows[layers, kept : kept + new.shape[1]] = new

    def keep(self, layers: slice, kept: int, new: Tensor, indices: Tensor) -> None:
        """Of the ``kept`` rows and ``new`` (l, c, H, D) behind them, keep those at ``indices`` (l, k), in order."""
        self._rows[layers, : indices.shape[1]] = gathered(torch.cat((self._rows[layers, :kept], new), 1), indices)
