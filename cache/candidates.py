"""What a policy sees when a chunk is committed: the numbers of all tokens of a layer, and their keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from cache.errors import CacheError
from cache.group import Group
from cache.open_chunk import RotateByTime
from cache.policy import Candidates, Evidence
from cache.storage import Workspace
from cache.token_store import TokenStore


@dataclass(frozen=True)
class CandidateReader:
    """Reads the candidates of one commit. Kept tokens are the same for all heads of a layer, so in a ``group`` policies
    see the keys and values of all heads."""

    store: TokenStore
    workspace: Workspace
    group: Group
    reads: frozenset[str]  # which of "keys", "values" and "copies" the policy reads
    unplaced: RotateByTime | None
    fresh: int  # tokens of the open chunk
    first_layer: int  # index of the store's first layer in the model

    def read(self, layers: int, evidence: Evidence, **given: Any) -> Iterator[Candidates]:
        """The candidates of the layers that this process judges: one of every ``size`` neighboring ones. ``given``: the
        fields that are the same for all layers."""
        size = self.group.size
        for start in range(0, layers, size):
            dealt = [min(start + rank, layers - 1) for rank in range(size)]
            candidates = self._of_layer(dealt, evidence, given)
            if size > 1:  # all processes read at the same time, or none does
                candidates.read_all(self.reads)
            yield candidates

    def _of_layer(self, dealt: Sequence[int], evidence: Evidence, given: dict[str, Any]) -> Candidates:
        """The candidates of this process's layer of those ``dealt``, one to each process."""
        layer = dealt[self.group.rank]
        store, end = self.store, self._filled(layer)
        others = {**given, **evidence.of_layer(layer)}
        if "asked" in others:
            others["asked"] = torch.maximum(store.asked[layer, :end], others["asked"])
        return Candidates(
            positions=store.positions[layer, :end],
            numbers=store.numbers[layer, :end],
            scores=store.scores[layer, :end],
            compared=store.copies(layer) if "copies" in self.reads else None,
            read_keys=cache(partial(self._keys, dealt)) if "keys" in self.reads else unread,
            read_values=cache(partial(self._values, dealt)) if "values" in self.reads else unread,
            layer=self.first_layer + layer,
            budget=store.budgets[layer],
            fresh=self.fresh,
            **others,
        )

    def _filled(self, layer: int) -> int:
        return self.store.kept[layer] + self.fresh

    def _keys(self, dealt: Sequence[int]) -> Tensor:
        """The candidates' keys as policies see them (n, H, D)."""
        layer, store = dealt[self.group.rank], self.store
        held = ((each, store.keys.read(slice(each, each + 1), store.kept[each])[0]) for each in dealt)
        keys = self.group.dealt([torch.cat((old, self.workspace.fresh[each])) for each, old in held])
        return keys if self.unplaced is None else self.unplaced(keys, store.positions[layer, : self._filled(layer)])

    def _values(self, dealt: Sequence[int]) -> Tensor:
        """The candidates' values (n, H, D)."""
        return self.group.dealt([self.workspace.values[layer, : self._filled(layer)] for layer in dealt])


def unread() -> Tensor:
    """In place of keys or values that the policy does not declare to read."""
    raise CacheError("the policy reads keys or values that its ``reads`` does not name")
