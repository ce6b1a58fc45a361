"""A session's evicted tokens in host memory, from which the best come back for each chunk.

On CUDA the memory is pinned and every copy runs beside the host: what a commit evicts has arrived when the next chunk
begins, since the host waits once per chunk. The choice is made on the host, from positions that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cache.errors import CacheError
from cache.group import ALONE, Group
from cache.policy import others
from cache.storage import Geometry, Workspace, part_of
from cache.token_store import TokenStore, reindexed
from cache.views import best_in_view, least_missed, rows_of_frames, standing_out

EMPTY = -1  # number of a slot without a token
ROWS = ("keys", "values")
STATE = (*ROWS, "positions", "numbers")
PREFIX = "host_"  # of the names in a snapshot


class Standing:
    """How far each token in host memory stands out from its row of its latent frame, computed once per token."""

    def __init__(self, layers: int, slots: int, group: Group, device: torch.device | str) -> None:
        self._group, self._device = group, device
        self._far = torch.zeros(layers, slots)
        self._known = torch.full((layers, slots), EMPTY, dtype=torch.int64)  # the token for which it was computed

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return self._far.nbytes + self._known.nbytes

    def forget(self, layer: int | slice, slots: Tensor | slice) -> None:
        """Other tokens are in ``slots`` now."""
        self._known[layer, slots] = EMPTY

    def of(self, layer: int, slots: Tensor, numbers: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        """(n,) for the tokens in ``slots`` (n,) of a layer, of whose slots all ``numbers``, ``positions`` and
        ``values`` are given. Rows with a new token are computed again as a whole."""
        far, known = self._far[layer], self._known[layer]
        new = known[slots] != numbers[slots]
        if bool(new.any()):
            rows = rows_of_frames(positions[slots])
            touched = torch.isin(rows, rows[new])
            some = slots[touched]
            far[some] = self._over_all_heads(standing_out(rows[touched], values[some].flatten(1).float()))
            known[some] = numbers[some]
        return far[slots]

    def _over_all_heads(self, own: Tensor) -> Tensor:
        """(n,): the sum over the processes of the group, each of which has some heads; exchanged on the device."""
        if self._group.size == 1:
            return own
        return self._group.all_heads(own.to(self._device)[:, None, None]).sum((1, 2)).cpu()


class HostTier:
    """``slots`` evicted tokens of each layer, in the model's own dtype; at most ``places`` of them come back for a
    chunk. They stay here meanwhile, so nothing is copied twice. When all slots are full, latent frames whose view
    others show give way, so a place is not lost because the camera stayed elsewhere. ``salient``: frames count by what
    stands out in them."""

    def __init__(
        self,
        geometry: Geometry,
        slots: int,
        places: int,
        position_range: int | None,
        salient: bool = False,
        group: Group = ALONE,
    ) -> None:
        on_gpu = torch.device(geometry.device).type == "cuda"
        host = replace(geometry, device="cpu")
        some = (geometry.layers, slots)
        state = (host.rows(slots), host.rows(slots), torch.zeros(*some, 3), torch.full(some, EMPTY, dtype=torch.int64))
        brought = (host.rows(places), host.rows(places))  # what comes back, while it is copied to the device
        pinned = [each.pin_memory() if on_gpu else each for each in (*state, *brought)]
        self.keys, self.values, self.positions, self.numbers, self._back_keys, self._back_values = pinned
        self.places, self._range = places, position_range
        self._standing = Standing(*some, group, geometry.device) if salient else None
        self._written = [torch.zeros(0, dtype=torch.int64)] * geometry.layers  # slots that the last ``take`` wrote
        self._copied = torch.cuda.Event() if on_gpu else None

    def of_layer(self, layer: int) -> HostTier:
        """One layer as a tier of its own that shares the memory."""
        part = part_of(self, slice(layer, layer + 1))
        part._written = [self._written[layer]]
        part._standing = None if self._standing is None else part_of(self._standing, slice(layer, layer + 1))
        return part

    @property
    def slots(self) -> int:
        """Tokens per layer that fit."""
        return int(self.numbers.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        state = (self.keys, self.values, self.positions, self.numbers)
        own = sum(tensor.nbytes for tensor in state) + self._back_keys.nbytes + self._back_values.nbytes
        return own + (self._standing.nbytes if self._standing is not None else 0)

    def take(self, store: TokenStore, chunk: Workspace, kept: Sequence[Tensor]) -> None:
        """Copy the tokens that leave ``store`` and the open chunk: those of which ``kept`` has no index, (k,) per
        layer."""
        self._wait()
        ends = [store.kept[layer] + store.chunk for layer in range(len(kept))]
        leaving = [others(stay, end)[-self.slots :] for stay, end in zip(kept, ends, strict=True)]
        self._written = self._room([len(gone) for gone in leaving])
        for layer, (gone, end) in enumerate(zip(leaving, ends, strict=True)):
            some, old = slice(layer, layer + 1), store.kept[layer]
            keys = torch.cat((store.keys.read(some, old)[0], chunk.fresh[layer]))
            self._put("keys", layer, keys[gone])
            self._put("values", layer, chunk.values[layer, :end][gone])
            self._put("positions", layer, store.positions[layer, :end][gone])
            self._put("numbers", layer, store.numbers[layer, :end][gone])
            if self._standing is not None:
                self._standing.forget(layer, self._written[layer])
        self._mark()

    def _room(self, counts: Sequence[int]) -> list[Tensor]:
        """Slots for so many new tokens, ascending, by layer: empty ones, then those that ``least_missed`` names."""
        rooms = list[Tensor]()
        for layer, count in enumerate(counts):
            numbers = self.numbers[layer]
            if layer and count == counts[layer - 1] and torch.equal(numbers, self.numbers[layer - 1]):
                rooms.append(rooms[-1])  # as usual
                continue
            empty, full = (numbers == EMPTY).nonzero()[:count, 0], (numbers != EMPTY).nonzero()[:, 0]
            full = full[numbers[full].argsort()]
            missed = full[least_missed(self.positions[layer, full], count - len(empty), self._standing_of(layer, full))]
            rooms.append(torch.cat((empty, missed)).sort().values)
        return rooms

    def _put(self, name: str, layer: int, new: Tensor) -> None:
        """Write ``new`` (k, ...) to the slots that ``take`` chose, run by run: a GPU copies only whole runs without
        waiting."""
        held = getattr(self, name)[layer]
        for first, start, end in runs(self._written[layer]):
            held[start:end].copy_(new[first : first + end - start], non_blocking=True)

    def take_back(self) -> None:
        """Undo the last ``take``. The tokens that it replaced do not return."""
        self._wait()
        for layer, slots in enumerate(self._written):
            self.numbers[layer, slots] = EMPTY

    def bring_back(
        self, coming: Tensor, space: Workspace, ends: Sequence[int], rotate: Callable[[Tensor, Tensor], Tensor] | None
    ) -> list[int]:
        """Write the best tokens for a chunk at ``coming`` (c, 3), on the host, into the workspace from ``ends`` on,
        with their keys rotated by time. Returns how many, by layer."""
        self._wait()
        counts, chosen = [], None
        for layer, end in enumerate(ends):
            if chosen is None or not torch.equal(self.numbers[layer], self.numbers[layer - 1]):
                chosen = self._best(layer, coming)  # usually the same in all layers
            to = (slice(layer, layer + 1), slice(end, end + len(chosen)))
            for held, back, rows in (
                (self.keys, self._back_keys, space.keys),
                (self.values, self._back_values, space.values),
            ):
                part = back[layer, : len(chosen)]
                torch.index_select(held[layer], 0, chosen, out=part)
                rows[to].copy_(part[None], non_blocking=True)
            if rotate is not None:
                times = reindexed(self.positions[layer : layer + 1, chosen, 0], coming[-1, 0], self._range)
                space.keys[to] = rotate(space.keys[to], times.to(space.keys.device))
            counts.append(len(chosen))
        self._mark()
        return counts

    def _best(self, layer: int, coming: Tensor) -> Tensor:
        """Slots of the tokens that come back, oldest token first."""
        numbers = self.numbers[layer]
        newest_first = numbers.argsort(descending=True)[: int((numbers != EMPTY).sum())]
        standing = self._standing_of(layer, newest_first)
        best = newest_first[best_in_view(self.positions[layer, newest_first], coming, self.places, standing)]
        return best[numbers[best].argsort()]

    def _standing_of(self, layer: int, slots: Tensor) -> Tensor | None:
        """How far the tokens in ``slots`` (n,) stand out, (n,); None if this does not count."""
        if self._standing is None:
            return None
        return self._standing.of(layer, slots, self.numbers[layer], self.positions[layer], self.values[layer])

    def held_numbers(self) -> list[Tensor]:
        """Per layer, the numbers of the tokens that are here (n,)."""
        self._wait()
        return [numbers[numbers != EMPTY] for numbers in self.numbers]

    def chunks(self, tokens: int) -> set[int]:
        """Chunks of so many ``tokens`` of which some layer holds a token here."""
        self._wait()
        return set(self.numbers[self.numbers != EMPTY].div(tokens, rounding_mode="floor").unique().tolist())

    def forget(self, gone: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Drop the tokens for whose positions (n, 3) and numbers (n,) ``gone`` is True."""
        self._wait()
        for positions, numbers in zip(self.positions, self.numbers, strict=True):
            numbers[gone(positions, numbers).cpu()] = EMPTY

    def snapshot(self, group: Group, device: torch.device) -> dict[str, Tensor]:
        """Copies of all tensors, with the heads of the whole group; these are exchanged on ``device``."""
        self._wait()
        held = {name: getattr(self, name) for name in STATE}
        for name in ROWS:
            held[name] = torch.stack([group.all_heads(layer.to(device)).cpu() for layer in held[name]])
        return {PREFIX + name: tensor.clone() for name, tensor in held.items()}

    def check_fits(self, state: dict[str, Tensor], group: Group) -> None:
        """Raise CacheError unless the snapshot ``state`` is of a tier like this one."""
        for name in STATE:
            layers, slots, *row = getattr(self, name).shape
            expected = (layers, slots, group.size * row[0], row[1]) if name in ROWS else (layers, slots, *row)
            given = state.get(PREFIX + name)
            if given is None or given.shape != expected or given.dtype != getattr(self, name).dtype:
                found = "nothing" if given is None else f"{given.dtype} {tuple(given.shape)}"
                raise CacheError(f"snapshot tensor {PREFIX + name!r} is {found}, this cache needs {expected}")

    def restore(self, state: dict[str, Tensor], group: Group) -> None:
        """Load a snapshot that ``check_fits``."""
        self._wait()
        for name in STATE:
            whole = state[PREFIX + name]
            getattr(self, name).copy_(group.own_heads(whole) if name in ROWS else whole)
        if self._standing is not None:
            self._standing.forget(slice(None), slice(None))

    def _mark(self) -> None:
        if self._copied is not None:
            self._copied.record()

    def _wait(self) -> None:
        """Until the last copies are done; they usually are."""
        if self._copied is not None:
            self._copied.synchronize()


def runs(slots: Tensor) -> Iterator[tuple[int, int, int]]:
    """Runs of neighbors among ascending ``slots`` (k,): the index of the first, its slot, and the slot after the
    last."""
    first = 0
    for i in range(1, len(slots) + 1):
        if i == len(slots) or slots[i] != slots[i - 1] + 1:
            yield first, int(slots[first]), int(slots[i - 1]) + 1
            first = i
