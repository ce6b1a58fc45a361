"""A session's tokens by layer: keys, values and what is known about them (ABOUT), in slots that are allocated once.

Each layer holds its committed tokens, oldest first, then what is known about the open chunk (ABOUT). This
module does not decide which tokens are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cache.config import NEAREST
from cache.copies import NOWHERE, Copies
from cache.errors import CacheCorrupt, CacheError
from cache.group import Group
from cache.policy import Merge
from cache.storage import Geometry, Slots, Workspace, at_once, gathered, part_of, rows_of

# of committed tokens and of the open chunk
ABOUT = ("positions", "numbers", "scores", "asked", "copy_cosines", "copy_places")
HEADS = 2  # dimension of the heads in stored rows, quantised or not


class TokenStore:
    """The tokens of one session. ``kept`` is the number of committed tokens per layer, at most its budget."""

    def __init__(self, geometry: Geometry, budgets: Sequence[int], kv_dtype: str, position_range: int | None) -> None:
        self.layers, self.budgets, self.chunk = geometry.layers, list(budgets), geometry.chunk
        self.keys = rows_of(kv_dtype, geometry, budgets)
        self.values = rows_of(kv_dtype, geometry, budgets)
        lengths, device = [budget + self.chunk for budget in budgets], geometry.device
        slots = sum(lengths)
        self.positions = Slots(lengths, torch.zeros(slots, 3, device=device))  # (t, h, w) as given
        self.numbers = Slots(lengths, torch.zeros(slots, dtype=torch.int64, device=device))  # since the stream began
        self.scores = Slots(lengths, torch.zeros(slots, device=device))
        self.asked = Slots(lengths, torch.zeros(slots, device=device))  # how surely any prompt so far named it
        self.copy_cosines = Slots(lengths, torch.zeros(slots, NEAREST, device=device))  # see cache.copies
        nowhere = torch.full((slots, NEAREST), NOWHERE, dtype=torch.int32, device=device)
        self.copy_places = Slots(lengths, nowhere)
        self.device = self.numbers.whole.device
        self.position_range = position_range
        self.kept = [0] * geometry.layers
        self._token_bytes = geometry.heads * geometry.head_dim * geometry.dtype.itemsize

    def of_layer(self, layer: int) -> TokenStore:
        """One layer as a store of its own that shares the memory; its ``kept`` is a copy."""
        some = slice(layer, layer + 1)
        part = part_of(self, some)
        part.keys, part.values = part_of(self.keys, some), part_of(self.values, some)
        part.layers, part.kept, part.budgets = 1, [self.kept[layer]], [self.budgets[layer]]
        return part

    @property
    def tensors(self) -> dict[str, Slots]:
        """All stored tensors by their names in a snapshot; each begins with (layers, slots)."""
        return self._rows | {name: getattr(self, name) for name in ABOUT}

    @property
    def _rows(self) -> dict[str, Slots]:
        """The tensors that have heads."""
        rows = {"keys": self.keys, "values": self.values}
        return {name + suffix: tensor for name, each in rows.items() for suffix, tensor in each.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def runs(self, by_bytes: bool = False) -> Iterator[tuple[slice, int]]:
        """Runs of neighboring layers with the same budget and number of tokens, and that number; usually one run. With
        ``by_bytes``, a run is short enough for copying its keys at once."""
        start = 0
        for (kept, _), equal in groupby(zip(self.kept, self.budgets, strict=True)):
            end = start + len(list(equal))
            step = at_once(self._token_bytes, kept + self.chunk, end - start) if by_bytes else end
            for first in range(start, end, max(1, step)):
                yield slice(first, min(first + step, end)), kept
            start = end

    def open(self, positions: Tensor) -> None:
        """Write the positions (chunk, 3), numbers and scores of an open chunk after the committed tokens."""
        # A token's number is derived from its latent frame, so numbers stay right in a stream that lost chunks.
        first, last = positions[0, 0].round().long(), positions[-1, 0].round().long()
        begin = (first * self.chunk).div(last - first + 1, rounding_mode="floor")
        numbers = begin + torch.arange(self.chunk, device=self.device)
        for some, kept in self.runs():
            tail = slice(kept, kept + self.chunk)
            self.positions[some, tail] = positions
            self.numbers[some, tail] = numbers
            self.scores[some, tail] = 0
            self.asked[some, tail] = 0
            self.copy_places[some, tail] = NOWHERE

    def times(self, layers: slice, filled: int) -> Tensor:
        """(l, filled): when each token stands. With a range the newest is at its end, and none is before its start."""
        times = self.positions[layers, :filled, 0]
        return reindexed(times, times[:, -1:], self.position_range)

    def committed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies of the committed tokens' keys, as stored, and values, each (kept, H, D)."""
        some, kept = slice(layer, layer + 1), self.kept[layer]
        return self.keys.read(some, kept)[0].clone(), self.values.read(some, kept)[0].clone()

    def copies(self, layer: int) -> Copies:
        """The copies of the committed tokens of a layer among each other."""
        kept = self.kept[layer]
        return Copies(self.copy_cosines[layer, :kept], self.copy_places[layer, :kept])

    def note(self, name: str, rows: Sequence[Tensor], valid: Tensor | None) -> None:
        """Set ``name`` of ABOUT of the committed tokens and the open chunk to ``rows``, per layer (n, ...), unless
        ``valid`` is False, a bool on the device."""
        for about, row in zip(getattr(self, name), rows, strict=True):
            held = about[: len(row)]
            held.copy_(row if valid is None else torch.where(valid, row, held))

    def of_committed(self, about: Slots) -> list[Tensor]:
        """Per layer, a copy of ``about`` (positions, numbers or scores) of the committed tokens."""
        return [about[layer, :kept].clone() for layer, kept in enumerate(self.kept)]

    def forget(self, gone: Sequence[Tensor]) -> None:
        """Drop the committed tokens that are True in ``gone``: per layer a bool (kept,)."""
        for layer, each in enumerate(gone):
            some, kept = slice(layer, layer + 1), self.kept[layer]
            stay = (~each).nonzero().view(1, -1)
            self._move(some, kept, stay, self.keys.read(some, 0), self.values.read(some, 0))
            self.kept[layer] = stay.shape[1]

    def commit(self, indices: Sequence[Tensor], chunk: Workspace, merges: Sequence[Merge] = ()) -> int:
        """Keep the tokens at ``indices``, (k,) per layer, of the committed ones followed by the open ``chunk``, after
        ``merges``, none or one per layer. Returns the number of evicted tokens over all layers."""
        counts = [len(each) for each in indices]
        for some, kept in list(self.runs(by_bytes=True)):
            end = kept + self.chunk
            for count, equal in groupby(range(self.layers)[some], key=lambda layer: counts[layer]):
                chosen = list(equal)
                part = slice(chosen[0], chosen[-1] + 1)
                keys, values = chunk.fresh[part], chunk.values[part, kept:end]
                if count == end:  # nothing is evicted
                    self.keys.append(part, kept, keys)
                    self.values.append(part, kept, values)
                else:
                    self._move(part, kept, torch.stack([indices[layer] for layer in chosen]), keys, values, merges)
        gone = sum(kept + self.chunk - count for kept, count in zip(self.kept, counts, strict=True))
        self.kept = counts
        return gone

    def _move(
        self,
        layers: slice,
        kept: int,
        indices: Tensor,
        keys: Tensor,
        values: Tensor,
        merges: Sequence[Merge] = (),
    ) -> None:
        """Move the tokens at ``indices`` (l, k) to the front, after the ``merges`` of all layers, if there are any.
        They index the ``kept`` tokens followed by those of ``keys`` and ``values`` (l, n, H, D)."""
        for rows, new in ((self.keys, keys), (self.values, values)):
            if merges:
                rows.merge(layers, kept, new, indices, merges[layers])
            else:
                rows.keep(layers, kept, new, indices)
        end = kept + keys.shape[1]
        for about in (getattr(self, name)[layers] for name in ABOUT):
            about[:, : indices.shape[1]] = gathered(about[:, :end], indices)
        places = self.copy_places[layers, : indices.shape[1]]
        places.copy_(moved(places, indices, end))

    def snapshot(self, group: Group) -> dict[str, Tensor]:
        """Copies of the committed tokens' tensors, with the heads of the whole group, on the host."""
        about = {name: self._padded(getattr(self, name)) for name in ABOUT}
        whole = {name: [group.all_heads(layer, HEADS - 1) for layer in rows] for name, rows in self._rows.items()}
        return {name: self._padded(layers) for name, layers in whole.items()} | about

    def _padded(self, layers: Iterable[Tensor]) -> Tensor:
        """The committed tokens of all layers (layers, most, ...) on the host, with zeros after the last."""
        held = zip(layers, self.kept, strict=True)
        return pad_sequence([layer[:kept].cpu() for layer, kept in held], batch_first=True)

    def restore(self, state: dict[str, Tensor], kept: list[int], group: Group) -> None:
        """Load a snapshot with ``kept`` tokens per layer, of its heads those of this process. Raises CacheError, and
        changes nothing, if it does not fit."""
        self._check_fits(state, kept, group)
        rows = self._rows
        for name, tensor in self.tensors.items():
            tensor.whole.zero_()
            own = group.own_heads(state[name], HEADS) if name in rows else state[name]
            for layer, held in enumerate(kept):
                tensor[layer, :held] = own[layer, :held]
        self.kept = kept

    def _check_fits(self, state: dict[str, Tensor], kept: list[int], group: Group) -> None:
        for held, budget in zip(kept, self.budgets, strict=True):
            if not 0 <= held <= budget:
                raise CacheError(f"the snapshot holds {held} tokens in a layer, this cache's budget is {budget}")
        rows = self._rows
        for name, tensor in self.tensors.items():
            expected = (self.layers, max(kept), *tensor.whole.shape[1:])
            if name in rows:
                expected = (*expected[:HEADS], group.size * expected[HEADS], *expected[HEADS + 1 :])
            if state[name].shape != expected or state[name].dtype != tensor.whole.dtype:
                given = f"{state[name].dtype} {tuple(state[name].shape)}"
                raise CacheError(
                    f"snapshot tensor {name!r} is {given}, this cache needs {tensor.whole.dtype} {expected}"
                )

    def check_integrity(self) -> None:
        """Raise CacheCorrupt if the committed tokens violate an invariant: budget, order, finite numbers."""
        for layer, (kept, budget) in enumerate(zip(self.kept, self.budgets, strict=True)):
            if not 0 <= kept <= budget:
                raise CacheCorrupt(f"layer {layer} holds {kept} tokens, budget {budget}")
            if bool((self.numbers[layer, :kept].diff() <= 0).any()):
                raise CacheCorrupt(f"layer {layer}: tokens are not in stream order")
            keys, values = self.committed(layer)
            held = {"keys": keys, "values": values}
            held |= {"positions": self.positions[layer, :kept], "scores": self.scores[layer, :kept]}
            held |= {"asked": self.asked[layer, :kept]}
            for name, tensor in held.items():
                if not bool(tensor.isfinite().all()):
                    raise CacheCorrupt(f"layer {layer}: {name} contain a number that is not finite")


def reindexed(times: Tensor, newest: Tensor, position_range: int | None) -> Tensor:
    """Times in latent frames as attention sees them: with a range, ``newest`` is at its end and none before its
    start."""
    return times if position_range is None else (times - newest + (position_range - 1)).clamp(min=0)


def moved(places: Tensor, indices: Tensor, end: int) -> Tensor:
    """``places`` (l, n, m) of tokens among ``end``, after the tokens at ``indices`` (l, k) have moved to the front;
    NOWHERE for those that are gone."""
    to = torch.full((len(indices), end + 1), NOWHERE, dtype=places.dtype, device=places.device)
    order = torch.arange(indices.shape[1], dtype=places.dtype, device=places.device)
    to.scatter_(1, indices, order.expand_as(indices))
    where = places.long().flatten(1)
    return to.gather(1, torch.where(where < 0, end, where)).view_as(places)
