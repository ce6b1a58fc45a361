"""Storage of keys and values: a session's store holds its committed tokens, the workspace holds what attention reads.

A worker makes one chunk at a time, so its sessions share one workspace: the kept tokens are copied into it when a chunk
begins, and a session owns no more than its budget. The workspace's addresses stay the same, so a captured CUDA graph of
a pass serves every session of the same size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from cache.config import GROUP, QUANTISED_BITS
from cache.errors import CacheError
from cache.policy import Merge

MOST_TEMPORARY = 2**27  # bytes of temporaries in one step over several layers; more layers are done in turns
SCALE = torch.bfloat16
LEAST_SCALE = 1e-12  # scale of a group of zeros
T = TypeVar("T")


class Slots:
    """A tensor (tokens, ...) for each layer, in one allocation; layers may have unequally many tokens.

    Indexed and assigned like one tensor (layers, tokens, ...), where several layers at once must have equally many.
    """

    def __init__(self, lengths: Sequence[int], whole: Tensor) -> None:
        """``whole`` (tokens of all layers, ...)."""
        self.lengths, self._whole = list(lengths), whole
        self._layers = whole.split(self.lengths)

    def __getitem__(self, index: Any) -> Tensor:
        layers, *rest = index if isinstance(index, tuple) else (index,)
        if not isinstance(layers, slice):
            one: Tensor = self._layers[layers][tuple(rest)]
            return one
        return self.part(layers).together()[(slice(None), *rest)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self[index][...] = value

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._layers)

    def part(self, layers: slice) -> Slots:
        """A view of some layers."""
        first, end, _ = layers.indices(len(self.lengths))
        begin = sum(self.lengths[:first])
        lengths = self.lengths[first:end]
        return Slots(lengths, self._whole[begin : begin + sum(lengths)])

    def together(self) -> Tensor:
        """A view (layers, tokens, ...), if all layers have equally many."""
        rows: Tensor = self._whole.unflatten(0, (len(self.lengths), self.lengths[0]))
        return rows

    @property
    def whole(self) -> Tensor:
        """The tokens of all layers (tokens, ...)."""
        return self._whole

    @property
    def nbytes(self) -> int:
        return self._whole.nbytes


def part_of(stored: T, layers: slice) -> T:
    """A view of ``stored``, whose tensors all begin with the layers, restricted to some layers."""
    part = copy.copy(stored)
    for name, each in vars(stored).items():
        if isinstance(each, Slots):
            setattr(part, name, each.part(layers))
        elif isinstance(each, Tensor):
            setattr(part, name, each[layers])
    return part


@dataclass(frozen=True)
class Geometry:
    """What a cache is made for: ``chunk`` tokens at a time, in each layer ``heads`` keys and values of ``head_dim``
    numbers. Raises CacheError for less than 1 of anything."""

    layers: int
    heads: int
    head_dim: int
    chunk: int
    dtype: torch.dtype
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("layers", "heads", "head_dim", "chunk")}
        if min(sizes.values()) < 1:
            told = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise CacheError(f"{told} must be 1 or more")

    def rows(self, count: int) -> Tensor:
        """Zeros (layers, count, H, D)."""
        return torch.zeros(self.layers, count, self.heads, self.head_dim, dtype=self.dtype, device=self.device)


class Workspace:
    """Keys and values of one chunk and of everything it attends to: kept tokens, oldest first, then the chunk.

    ``fresh`` holds the chunk's keys as they will be stored, not rotated by time. ``user`` is the cache that opened a
    chunk last.
    """

    def __init__(self, geometry: Geometry, slots: int) -> None:
        self.fresh = geometry.rows(geometry.chunk)
        self.keys = self.values = self.fresh[:, :0]
        self.user: object = None
        self.grow(slots)

    @property
    def slots(self) -> int:
        """Tokens per layer that fit."""
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values, self.fresh))

    def grow(self, slots: int) -> None:
        """Make room for at least ``slots`` tokens. If there was less, addresses change and an open chunk is dropped."""
        if self.slots < slots:
            self.user = None
            self.keys = self.values = self.fresh[:, :0]  # free the old tensors before allocating the new ones
            layers, _, *row = self.fresh.shape
            self.keys = self.fresh.new_zeros(layers, slots, *row)
            self.values = torch.zeros_like(self.keys)

    def check_fits(self, geometry: Geometry) -> None:
        """Raise CacheError unless a cache of this geometry can use this workspace."""
        needed = (geometry.layers, geometry.chunk, geometry.heads, geometry.head_dim)
        found = tuple(self.fresh.shape)
        if found != needed:
            raise CacheError(f"the workspace has (layers, chunk, heads, head_dim) {found}, this cache has {needed}")


def at_once(token_bytes: int, tokens: int, layers: int) -> int:
    """Number of layers whose ``tokens`` can be copied together within MOST_TEMPORARY bytes."""
    return max(1, min(layers, MOST_TEMPORARY // max(1, token_bytes * tokens)))


def gathered(rows: Tensor, indices: Tensor) -> Tensor:
    """Rows (l, n, ...) at ``indices`` (l, k), layer by layer -> (l, k, ...)."""
    layers, count = rows.shape[:2]
    flat = indices + count * torch.arange(layers, device=indices.device).unsqueeze(1)
    found: Tensor = rows.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, indices.shape)
    return found


def added_up(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """The sums (count, ...) of the ``rows`` (n, ...) that have the same of ``places`` (n,), in the same order, and so
    with the same bits, each time."""
    total = rows.new_zeros(count, *rows.shape[1:])
    if rows.device.type == "cpu":
        return total.index_add_(0, places, rows)
    return total.index_put_((places,), rows, accumulate=True)  # which sorts, where index_add_ would race


class Rows:
    """One kind of row (keys or values) of all layers' committed tokens, unquantised: (layers, budget, H, D)."""

    def __init__(self, geometry: Geometry, budgets: Sequence[int]) -> None:
        row = (sum(budgets), geometry.heads, geometry.head_dim)
        self._rows = Slots(budgets, torch.zeros(row, dtype=geometry.dtype, device=geometry.device))

    @property
    def tensors(self) -> dict[str, Slots]:
        """The stored tensors by the suffix of their names in a snapshot."""
        return {"": self._rows}

    def read(self, layers: slice, count: int) -> Tensor:
        """The first ``count`` rows of some layers (l, count, H, D)."""
        return self._rows[layers, :count]

    def append(self, layers: slice, kept: int, new: Tensor) -> None:
        """Write ``new`` (l, k, H, D) after the ``kept`` rows."""
        self._rows[layers, kept : kept + new.shape[1]] = new

    def keep(self, layers: slice, kept: int, new: Tensor, indices: Tensor) -> None:
        """Keep the rows at ``indices`` (l, k), in order, of the ``kept`` rows followed by ``new`` (l, c, H, D)."""
        self._rows[layers, : indices.shape[1]] = gathered(torch.cat((self._rows[layers, :kept], new), 1), indices)

    def merge(self, layers: slice, kept: int, new: Tensor, indices: Tensor, merges: Sequence[Merge]) -> None:
        """As ``keep``, after a merge for each of the layers."""
        for rows, fresh, stay, (onto, weights) in zip(self._rows[layers], new, indices, merges, strict=True):
            shares = torch.cat((rows[:kept], fresh)).float() * weights[:, None, None]
            own = torch.full_like(onto, len(stay)).scatter(0, stay, torch.arange(len(stay), device=stay.device))
            rows[: len(stay)] = added_up(shares, own[onto], len(stay) + 1)[:-1].to(rows.dtype)


class QuantisedRows:
    """Rows as integers of 8 or 4 bits, with one scale per group of 64 neighbors; otherwise as ``Rows``.

    A row is rounded once, when its chunk is committed; moving a row moves its codes. Rows are read back in the dtype of
    the geometry.
    """

    def __init__(self, geometry: Geometry, budgets: Sequence[int], bits: int) -> None:
        tokens, device = sum(budgets), geometry.device
        self._row, self._dtype, self._bits = (geometry.heads, geometry.head_dim), geometry.dtype, bits
        self._groups = -(-geometry.heads * geometry.head_dim // GROUP)
        width = self._groups * GROUP * bits // 8
        self._codes = Slots(budgets, torch.zeros(tokens, width, dtype=torch.uint8, device=device))
        self._scales = Slots(budgets, torch.zeros(tokens, self._groups, dtype=SCALE, device=device))

    @property
    def tensors(self) -> dict[str, Slots]:
        return {"": self._codes, ".scales": self._scales}

    def read(self, layers: slice, count: int) -> Tensor:
        codes, scales = self._codes[layers, :count], self._scales[layers, :count]
        if self._bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
        zero = 2 ** (self._bits - 1)
        numbers = (codes.to(self._dtype) - zero).view(*codes.shape[:-1], self._groups, GROUP)
        rows = (numbers * scales.to(self._dtype).unsqueeze(-1)).flatten(-2)
        heads, head_dim = self._row
        whole: Tensor = rows[..., : heads * head_dim].reshape(*rows.shape[:-1], heads, head_dim)
        return whole

    def append(self, layers: slice, kept: int, new: Tensor) -> None:
        end = kept + new.shape[1]
        self._codes[layers, kept:end], self._scales[layers, kept:end] = self._rounded(new)

    def keep(self, layers: slice, kept: int, new: Tensor, indices: Tensor) -> None:
        rounded = self._rounded(new)
        for stored, fresh in zip((self._codes, self._scales), rounded, strict=True):
            stored[layers, : indices.shape[1]] = gathered(torch.cat((stored[layers, :kept], fresh), 1), indices)

    def merge(self, layers: slice, kept: int, new: Tensor, indices: Tensor, merges: Sequence[Merge]) -> None:
        raise CacheError("quantised rows cannot be merged: each commit would round them again")

    def _rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (l, n, H, D) as codes (l, n, width) and scales (l, n, groups)."""
        largest, zero = 2 ** (self._bits - 1) - 1, 2 ** (self._bits - 1)
        flat = torch.nn.functional.pad(rows.flatten(2).float(), (0, self._groups * GROUP - rows[0, :1].numel()))
        groups = flat.view(*flat.shape[:-1], self._groups, GROUP)
        scales = (groups.abs().amax(-1) / largest).clamp(min=LEAST_SCALE).to(SCALE)
        codes = (groups / scales.float().unsqueeze(-1)).round().clamp(-largest, largest) + zero
        codes = codes.to(torch.uint8).flatten(-2)
        return (codes[..., ::2] | codes[..., 1::2] << 4 if self._bits == 4 else codes), scales


def rows_of(kv_dtype: str, geometry: Geometry, budgets: Sequence[int]) -> Rows | QuantisedRows:
    """Storage for rows in ``kv_dtype`` ("auto": as computed) that are read in the geometry's dtype; as many for each
    layer as its budget."""
    if bits := QUANTISED_BITS.get(kv_dtype):
        return QuantisedRows(geometry, budgets, bits)
    return Rows(geometry, budgets)
