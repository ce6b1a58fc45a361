"""One session's keys and values over all layers, in a budget of slots that is allocated once.

Each layer holds its committed tokens, oldest first, then the current chunk, so that attention always reads one dense
prefix. Keys are stored rotated by row and column, which never change, but not by time, which is re-indexed at every
chunk: rotating stored bf16 keys again and again would accumulate an error over an hour-long stream. Once the cache is
full, no shape and no host decision depends on its content: only the device knows which tokens are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cache import config
from cache.candidates import CandidateReader
from cache.contents import CacheContents
from cache.errors import CacheError
from cache.group import ALONE, Group
from cache.host_tier import HostTier
from cache.open_chunk import OpenChunk, RotateByTime
from cache.policy import Candidates, Evidence
from cache.pruner import Pruner
from cache.storage import Geometry, Workspace, part_of
from cache.token_store import TokenStore

NO_EVIDENCE = Evidence()
COUNTERS = 3  # chunks, evicted tokens, fell back; then the number of tokens per layer


class KVCache(CacheContents):
    """Key/value cache of one session.

    Sizes ``budget``, ``sink`` and ``recent`` are tokens per layer, the budget as the mean over layers.
    ``position_range`` is the number of latent frames seen in training: temporal positions are re-indexed into it
    (relative mode), or unchanged if it is None (absolute mode). ``seed`` is for random policies. Committed tokens are
    stored as ``kv_dtype``; the open chunk is always in full precision. Sessions that make chunks one at a time may
    share a ``workspace``; without one the cache creates its own. Of policies that recall, ``host`` is the number of
    evicted tokens per layer that host memory holds, and the device stores only sink and recent tokens. In a ``group``
    the cache holds its process's heads, as many as ``geometry`` says. Kept tokens are the same for all heads of a
    layer, so policies see the keys and values of all.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        budget: int,
        policy: str,
        sink: int,
        recent: int,
        position_range: int | None,
        seed: int = 0,
        kv_dtype: str = "auto",
        workspace: Workspace | None = None,
        unplaced: RotateByTime | None = None,
        group: Group = ALONE,
        host: int = 0,
    ) -> None:
        config.check_room(policy, budget, sink, recent, "tokens", config.POLICY_NAMES)
        if position_range is not None and position_range < 1:
            raise CacheError(f"position_range of {position_range} latent frames must be 1 or more, or None")
        config.check_kv_dtype(kv_dtype, str(geometry.dtype).removeprefix("torch."))
        config.check_shared(kv_dtype, geometry.heads * geometry.head_dim, group.size)
        config.check_host(policy, recent, host, "tokens")
        config.check_merging(policy, kv_dtype)
        self.layers, self.budget, self.chunk = geometry.layers, budget, geometry.chunk
        self.sink, self.recent, self.seed = sink, recent, seed
        places = config.places_of(policy, budget, sink, recent)
        budgets = config.layer_budgets(policy, geometry.layers, budget, sink, recent)
        self._pruner = Pruner(policy, sink, group)
        self._store = TokenStore(geometry, budgets, kv_dtype, position_range)
        salient = policy in config.SALIENT
        recalls = self._pruner.policy.recalls
        self._tier = HostTier(geometry, host, places, position_range, salient, group) if recalls else None
        self._group = group
        slots = max(budgets) + places + self.chunk
        self._workspace = workspace or Workspace(geometry, slots)
        self._workspace.check_fits(geometry)
        self._workspace.grow(slots)
        self._unplaced = unplaced
        self._first_layer = 0  # index of this object's first layer; see ``alone``
        self._open: OpenChunk | None = None
        # before the last commit: tokens of each layer, evictions
        self._before: tuple[list[int], int] = ([0] * self.layers, 0)
        self.chunks = 0  # committed so far
        self.evicted_tokens = 0  # since construction, summed over layers

    def begin_chunk(self, positions: Tensor, rotate: RotateByTime | None = None) -> None:
        """Open a chunk of tokens at ``positions`` (chunk, 3); an open chunk that was not committed is dropped.

        The kept tokens, and what comes back from host memory, are laid out for attention, with their keys rotated by
        ``rotate``. Positions on the host save host memory's choice a wait for the device.
        """
        if positions.shape != (self.chunk, 3):
            raise CacheError(f"chunk positions have shape {tuple(positions.shape)}, expected ({self.chunk}, 3)")
        self._store.open(positions.to(self._store.device))
        self._open = OpenChunk(self._store, self._workspace, rotate, self._tier, positions)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the open chunk's rotated keys and values (1, chunk, H, D); returns all keys and values that it may
        attend to.

        Returns dense views (1, kept + chunk, H, D). Every pass overwrites the slots of the previous one.
        """
        return self._chunk_for("extend").extend(layer, keys, values)

    def store(self, layer: int, keys: Tensor) -> None:
        """Write the open chunk's keys (1, chunk, H, D) as they will be stored; its values are those of ``extend``."""
        self._chunk_for("store").store(layer, keys)

    def stored_elsewhere(self) -> None:
        """Declare that a replayed pass has written the open chunk of every layer into the workspace."""
        self._chunk_for("stored_elsewhere").written.update(range(self.layers))

    def _chunk_for(self, what: str) -> OpenChunk:
        if self._open is None:
            raise CacheError(f"{what} without begin_chunk: a chunk's positions must be known before its keys")
        if self._workspace.user is not self._open:
            raise CacheError(
                f"{what} after another session began a chunk in the shared workspace: begin this chunk again"
            )
        return self._open

    def chunk_positions(self) -> Tensor:
        """Positions (1, chunk, 3) of the open chunk for the rotation, the same in all layers."""
        self._chunk_for("chunk_positions")
        return self.positions(0)[:, -self.chunk :]

    @property
    def policy(self) -> str:
        """Name of the policy in force."""
        return self._pruner.policy.name

    @property
    def fell_back(self) -> bool:
        """Whether scores were not finite, so that the fallback policy is in force for good."""
        return self._pruner.fell_back

    @property
    def needs(self) -> frozenset[str]:
        """The fields of Evidence that ``commit`` needs; empty for policies without evidence."""
        return self._pruner.policy.needs

    @property
    def workspace(self) -> Workspace:
        """The workspace in use."""
        return self._workspace

    @property
    def full(self) -> bool:
        """Whether every layer is full, so that shapes will not change in later chunks."""
        places = self._tier.places if self._tier is not None else 0
        return self._store.kept == self._store.budgets and min(self._recalled) == places

    @property
    def layout(self) -> tuple[tuple[int, int], ...]:
        """By layer, how many kept tokens and how many recalled ones stand in the workspace: passes over caches of one
        layout have the same shapes and addresses."""
        return tuple(zip(self._store.kept, self._recalled, strict=True))

    @property
    def _recalled(self) -> list[int]:
        return [0] * self.layers if self._open is None else self._open.recalled

    def commit(self, evidence: Evidence = NO_EVIDENCE, valid: Tensor | None = None) -> None:
        """Close the chunk: the policy decides, layer by layer, which tokens to keep.

        ``valid`` is a bool on the device: whether the chunk is valid. If it turns out False, call ``take_back``. An
        error leaves the cache unchanged. The ``Pruner`` handles scores that are not finite.
        """
        written = self._open.written if self._open is not None else ()
        if len(written) < self.layers:
            raise CacheError(f"commit needs keys of all {self.layers} layers, got {len(written)}")
        self._chunk_for("commit")
        counts = [self._filled(layer) for layer in range(self.layers)]
        left = [min(count, budget) for count, budget in zip(counts, self._store.budgets, strict=True)]
        evidence.check(self._pruner.policy, self.chunk, counts)
        kept, merges, told = self._pruner.judge(self._to_judge(evidence), counts, left)
        if valid is not None:
            kept = [torch.where(valid, k, torch.arange(len(k), device=k.device)) for k in kept]
            merges = [merge.unless(valid) for merge in merges]
        for name, rows in told.items():
            self._store.note(name, rows, valid)
        self._before = (self._store.kept, self.evicted_tokens)
        if self._tier is not None:
            self._tier.take(self._store, self._workspace, kept)
        self.evicted_tokens += self._store.commit(kept, self._workspace, merges)
        self._open = None
        self.chunks += 1

    def take_back(self) -> None:
        """Undo the last commit, whose ``valid`` turned out False: no tokens were moved."""
        self._store.kept, self.evicted_tokens = self._before
        self._pruner.take_back()
        if self._tier is not None:
            self._tier.take_back()
        self.chunks -= 1

    def report(self) -> Tensor | None:
        """A bool on the device, whether all scores of the last commit are finite. Read it and pass it to ``settle``."""
        return self._pruner.report()

    def settle(self, sound: bool | None = None) -> None:
        """Record whether the last commit's scores were finite. ``sound`` is the value of ``report``; if it is None,
        this waits for the device."""
        self._pruner.settle(sound)

    def forget_from(self, number: int) -> None:
        """Drop all tokens from ``number`` on, and an open chunk. Tokens that they displaced do not return."""
        self.forget_where(lambda positions, numbers: numbers >= number)

    def forget_where(self, gone: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Drop the committed tokens for whose positions (n, 3) and numbers (n,) ``gone`` is True, a bool (n,), also in
        host memory, and an open chunk."""
        held = zip(self.retained_positions(), self.retained_numbers(), strict=True)
        self.forget([gone(positions, numbers) for positions, numbers in held])
        if self._tier is not None:
            self._tier.forget(gone)

    def forget(self, gone: Sequence[Tensor]) -> None:
        """Drop the committed tokens on the device that are True in ``gone``, a bool (kept,) per layer, and an open
        chunk."""
        self._open = None
        self._store.forget(gone)

    @contextmanager
    def alone(self, layer: int) -> Iterator[KVCache]:
        """One layer as a cache of its own (as its layer 0) in the same memory, so that several chunks can be committed
        to it before the next layer. After the last layer, this cache has committed these chunks."""
        self.settle()
        self._open = self._workspace.user = None
        part = copy.copy(self)
        part._store = self._store.of_layer(layer)
        part._workspace = part_of(self._workspace, slice(layer, layer + 1))
        part._pruner = copy.copy(self._pruner)
        part._tier = None if self._tier is None else self._tier.of_layer(layer)
        part.layers, part._first_layer = 1, layer
        try:
            yield part
        finally:
            self._store.kept[layer] = part._store.kept[0]
            self.evicted_tokens = part.evicted_tokens
            if part.fell_back:
                self._pruner.fall_back()
            if layer == self.layers - 1:
                self.chunks = part.chunks

    def snapshot(self) -> dict[str, Tensor]:
        """The committed state as tensors, without an open chunk; of all heads, so that any group can restore it."""
        counters = [self.chunks, self.evicted_tokens, int(self.fell_back), *self._store.kept]
        tier = {} if self._tier is None else self._tier.snapshot(self._group, self._store.device)
        return {**self._store.snapshot(self._group), **tier, "counters": torch.tensor(counters, dtype=torch.int64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load a snapshot of a cache with the same geometry. Raises CacheError, and changes nothing, if it does not
        fit."""
        chunks, evicted, fell_back, *kept = counters_of(state, self._store.tensors, self.layers)
        if self._tier is not None:
            self._tier.check_fits(state, self._group)
        self._store.restore(state, kept, self._group)
        if self._tier is not None:
            self._tier.restore(state, self._group)
        self.chunks, self.evicted_tokens = chunks, evicted
        self._pruner.reset(bool(fell_back))
        self._open = None

    def _to_judge(self, evidence: Evidence) -> Iterator[Candidates]:
        """The candidates of the layers that this process judges."""
        reader = CandidateReader(
            self._store,
            self._workspace,
            self._group,
            self._pruner.policy.reads,
            self._unplaced,
            self.chunk,
            self._first_layer,
        )
        same = {"sink": self.sink, "recent": self.recent, "seed": self.seed}
        return reader.read(self.layers, evidence, chunk=self.chunks, **same)


def counters_of(state: dict[str, Tensor], tensors: Iterable[str], layers: int) -> list[int]:
    """The counters of a snapshot. Raises CacheError if it lacks them or one of ``tensors``."""
    missing = {*tensors, "counters"} - state.keys()
    if missing:
        raise CacheError(f"the cache snapshot lacks {', '.join(sorted(missing))}")
    if state["counters"].shape != (COUNTERS + layers,):
        found = tuple(state["counters"].shape)
        raise CacheError(f"snapshot tensor 'counters' has shape {found}, expected ({COUNTERS + layers},)")
    return [int(number) for number in state["counters"]]
