"""One session's keys and values over all layers: a budget of slots, allocated once.

A layer's committed tokens stand first, oldest first, and then the current chunk, so that attention always reads one
dense prefix. Keys are kept as they come from ``store``: turned by row and column, which never change, but not by
time, which is re-indexed at every chunk: turning stored bf16 keys again and again would add up an error over an
hour-long stream. Once the cache is full, no shape and no decision of the host depends on what it holds: which tokens
stay is known to the device alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from cache import config
from cache.errors import CacheCorrupt, CacheError
from cache.policy import Candidates, Choice, Evidence, Policy
from cache.registry import policy_named
from cache.storage import Workspace, at_once, gathered, part_of, rows_of

ABOUT = ("positions", "numbers", "scores")  # of every token and of the open chunk's
STORED = ("keys", "values", *ABOUT)
NO_EVIDENCE = Evidence()
COUNTERS = 3  # chunks, evicted tokens, fell back; then the tokens of each layer
Turn = Callable[[Tensor, Tensor], Tensor]  # keys (l, n, H, D) and their times (l, n) -> keys that may be attended to


class KVCache:
    """Key/value cache of one session.

    Sizes ``budget``, ``chunk``, ``sink`` and ``recent`` are tokens per layer. ``position_range`` is the number of
    latent frames seen in training: temporal positions are re-indexed into it (relative mode), or left as they are
    when it is None (absolute mode). ``seed`` feeds policies that draw. Committed tokens are kept as ``kv_dtype`` says;
    the open chunk is always in full precision. Sessions whose chunks are made one after the
    other may share a ``workspace``; without one the cache makes its own.
    """

    promised_bytes = staticmethod(config.promised_bytes)

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        budget: int,
        chunk: int,
        policy: str,
        sink: int,
        recent: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        position_range: int | None,
        seed: int = 0,
        kv_dtype: str = "auto",
        workspace: Workspace | None = None,
    ) -> None:
        config.check_room(policy, budget, sink, recent, "tokens", config.POLICY_NAMES)
        if min(layers, heads, head_dim, chunk) < 1:
            raise CacheError(f"layers {layers}, heads {heads}, head_dim {head_dim}, chunk {chunk} must be 1 or more")
        if position_range is not None and position_range < 1:
            raise CacheError(f"position_range of {position_range} latent frames must be 1 or more, or None")
        self.layers, self.budget, self.chunk = layers, budget, chunk
        self.sink, self.recent, self.seed = sink, recent, seed
        self.position_range = position_range
        self._configured = policy
        self._policy: Policy = policy_named(policy)
        self._sound: Tensor | None = None  # of the newest commit, until the host has asked: were all scores numbers?
        self._fell_back = False
        self._before: tuple[list[int], int] = ([0] * layers, 0)  # tokens of each layer and evictions, a commit ago
        config.check_kv_dtype(kv_dtype, str(dtype).removeprefix("torch."))
        self._keys = rows_of(kv_dtype, layers, budget, heads, head_dim, dtype, device)
        self._values = rows_of(kv_dtype, layers, budget, heads, head_dim, dtype, device)
        slots = (layers, budget + chunk)
        self._positions = torch.zeros(*slots, 3, device=device)
        self._numbers = torch.zeros(slots, dtype=torch.int64, device=device)
        self._scores = torch.zeros(slots, device=device)
        if workspace is None:
            workspace = Workspace(
                layers=layers,
                slots=budget + chunk,
                chunk=chunk,
                heads=heads,
                head_dim=head_dim,
                dtype=dtype,
                device=device,
            )
        workspace.check_fits(layers, chunk, heads, head_dim)
        workspace.grow(budget + chunk)
        self._workspace = workspace
        self._first_layer = 0  # of those in this object's hands; see ``alone``
        self._kept = [0] * layers
        self._written: set[int] | None = None  # layers stored since begin_chunk; None between chunks
        self.chunks = 0  # committed so far
        self.evicted_tokens = 0  # since construction, summed over layers

    def begin_chunk(self, positions: Tensor, turn: Turn | None = None) -> None:
        """Open a chunk of tokens at ``positions`` (chunk, 3); a chunk that was begun but never committed is dropped.

        The kept tokens are laid out for attention, their keys as ``turn`` makes them of their times.
        """
        if positions.shape != (self.chunk, 3):
            raise CacheError(f"chunk positions have shape {tuple(positions.shape)}, expected ({self.chunk}, 3)")
        first, last = positions[0, 0].round().long(), positions[-1, 0].round().long()
        # A token is numbered by its latent frame, so that a stream that lost chunks goes on with the right numbers.
        begin = (first * self.chunk).div(last - first + 1, rounding_mode="floor")
        numbers = begin + torch.arange(self.chunk, device=self._numbers.device)
        for some, kept in self._runs():
            tail = slice(kept, kept + self.chunk)
            self._positions[some, tail] = positions
            self._numbers[some, tail] = numbers
            self._scores[some, tail] = 0
        self._written = set()
        self._workspace.user = self
        self._lay_out(turn)

    def _lay_out(self, turn: Turn | None) -> None:
        for some, kept in self._runs(by_bytes=True):
            if kept:
                keys = self._keys.read(some, kept)
                if turn is not None:
                    keys = turn(keys, self._times(some, kept + self.chunk)[:, :kept])
                self._workspace.keys[some, :kept] = keys
                self._workspace.values[some, :kept] = self._values.read(some, kept)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out the open chunk's keys, turned, and values (1, chunk, H, D); return all that it may attend to.

        Returns dense views (1, kept + chunk, H, D). Every pass overwrites the slots of the one before.
        """
        self._check_open("extend")
        expected = (1, self.chunk, *self._workspace.fresh.shape[2:])
        if keys.shape != expected or values.shape != expected:
            raise CacheError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be {expected}")
        kept, end = self._kept[layer], self._kept[layer] + self.chunk
        self._workspace.keys[layer, kept:end] = keys[0]
        self._workspace.values[layer, kept:end] = values[0]
        return self._workspace.keys[layer, :end].unsqueeze(0), self._workspace.values[layer, :end].unsqueeze(0)

    def store(self, layer: int, keys: Tensor) -> None:
        """Write the open chunk's keys (1, chunk, H, D) as they will be kept; its values are those of ``extend``."""
        written = self._check_open("store")
        if keys.shape != (1, *self._workspace.fresh.shape[1:]):
            raise CacheError(f"keys {tuple(keys.shape)} must be {(1, *self._workspace.fresh.shape[1:])}")
        self._workspace.fresh[layer] = keys[0]
        written.add(layer)

    def stored_elsewhere(self) -> None:
        """A replayed pass has written the open chunk of every layer into the workspace."""
        self._check_open("stored_elsewhere").update(range(self.layers))

    def _check_open(self, what: str) -> set[int]:
        if self._written is None:
            raise CacheError(f"{what} without begin_chunk: a chunk's positions must be known before its keys")
        if self._workspace.user is not self:
            raise CacheError(f"{what} after another session began a chunk in the shared workspace: begin this one anew")
        return self._written

    def positions(self, layer: int) -> Tensor:
        """Positions (1, n, 3) to rotate by: n = kept + chunk while a chunk is open, else kept.

        In relative mode the newest token stands at position_range - 1, and whatever is older than the range
        stands at 0, so that a stream of any length stays inside the positions that the model was trained on.
        """
        filled = self._filled(layer)
        positions = self._positions[layer, :filled].unsqueeze(0)
        if self.position_range is None or not filled:
            return positions
        time = self._times(slice(layer, layer + 1), filled)
        return torch.cat((time.unsqueeze(-1), positions[..., 1:]), dim=-1)

    def _times(self, layers: slice, filled: int) -> Tensor:
        """(l, filled): when each token stands, re-indexed in relative mode."""
        times = self._positions[layers, :filled, 0]
        if self.position_range is None:
            return times
        return (times - times[:, -1:] + (self.position_range - 1)).clamp(min=0)

    def chunk_positions(self) -> Tensor:
        """Positions (1, chunk, 3) of the open chunk to rotate by: the same in all layers."""
        self._check_open("chunk_positions")
        return self.positions(0)[:, -self.chunk :]

    @property
    def policy(self) -> str:
        """Name of the policy in force."""
        self.settle()
        return self._policy.name

    @property
    def fell_back(self) -> bool:
        """Scores were not finite: the fallback policy is in force from then on."""
        self.settle()
        return self._fell_back

    @property
    def needs(self) -> frozenset[str]:
        """Fields of Evidence that ``commit`` wants; empty for policies that look at nothing."""
        self.settle()
        return self._policy.needs

    @property
    def workspace(self) -> Workspace:
        return self._workspace

    @property
    def full(self) -> bool:
        """Every layer holds its budget: shapes are what they will be in all later chunks."""
        return min(self._kept) == self.budget

    def commit(self, evidence: Evidence = NO_EVIDENCE, valid: Tensor | None = None) -> None:
        """Close the chunk: the policy decides, layer by layer, which tokens stay.

        ``valid``, a bool on the device, says whether the chunk is one; when it reads False, ``take_back`` it.

        Raises before anything is changed, so that a failed commit leaves the cache as it was. Scores that are not
        finite are no failure: the session falls back to a policy without scores, for good (``fell_back``). Nobody
        waits for the device to learn that: it keeps by the fallback where it must, and ``settle`` asks later.
        """
        if self._written is None or len(self._written) < self.layers:
            raise CacheError(f"commit needs keys of all {self.layers} layers, got {len(self._written or ())}")
        self._check_open("commit")
        self.settle()
        self._check_evidence(evidence)
        scores = self._updated_scores(evidence)
        choices = [self._choose(layer, scores[layer], evidence) for layer in range(self.layers)]
        kept = [choice.indices for choice in choices]
        judged = [choice.sound for choice in choices if choice.sound is not None]
        if judged or self._policy.needs:
            self._sound = torch.stack([*judged, *(row.isfinite().all() for row in scores)]).all()
            spare = [self._spare_indices(self._filled(layer)) for layer in range(self.layers)]
            kept = [torch.where(self._sound, ours, theirs) for ours, theirs in zip(kept, spare, strict=True)]
            scores = [torch.where(self._sound, row, 0) for row in scores]
        if valid is not None:
            kept = [torch.where(valid, k, torch.arange(len(k), device=k.device)) for k in kept]
            scores = [torch.where(valid, row, self._scores[i, : len(row)]) for i, row in enumerate(scores)]
        for layer, row in enumerate(scores):
            self._scores[layer, : self._filled(layer)] = row
        self._before = (self._kept, self.evicted_tokens)
        self._compact(kept)
        self._written = None
        self.chunks += 1

    def take_back(self) -> None:
        """Be as before the last commit, which was given a ``valid`` that reads False: nothing was moved."""
        self._kept, self.evicted_tokens = self._before
        self._sound = None
        self.chunks -= 1

    def report(self) -> Tensor | None:
        """A bool on the device that ``settle`` wants the host to read: were all scores of the last commit numbers?"""
        return self._sound

    def settle(self, sound: bool | None = None) -> None:
        """Learn how the last commit went; without ``sound``, what ``report`` read as, this waits for the device."""
        if self._sound is not None:
            if sound is None:
                sound = bool(self._sound)
            if not sound:
                self._policy, self._fell_back = policy_named(config.FALLBACK_POLICY), True
            self._sound = None

    def forget_from(self, number: int) -> None:
        """Drop all tokens from ``number`` on, and an open chunk; what they displaced stays gone."""
        self.forget([numbers >= number for numbers in self.retained_numbers()])

    def forget(self, gone: Sequence[Tensor]) -> None:
        """Drop the committed tokens that are True in ``gone``, (kept,) bool per layer, and an open chunk."""
        self._written = None
        for layer, each in enumerate(gone):
            self._move(slice(layer, layer + 1), self._kept[layer], (~each).nonzero().view(1, -1), fresh=False)
            self._kept[layer] = int((~each).sum())

    @contextmanager
    def alone(self, layer: int) -> Iterator[KVCache]:
        """One layer as a cache of its own (its layer 0) in the same memory: several chunks are committed to it before
        the next layer's turn comes. When the last layer has had its turn, this cache has committed them."""
        self.settle()
        self._written = self._workspace.user = None
        some = slice(layer, layer + 1)
        part = part_of(self, some)
        part._keys, part._values = part_of(self._keys, some), part_of(self._values, some)
        part._workspace = part_of(self._workspace, some)
        part.layers, part._first_layer, part._kept = 1, layer, [self._kept[layer]]
        try:
            yield part
        finally:
            self._kept[layer] = part._kept[0]
            self.evicted_tokens = part.evicted_tokens
            if part.fell_back:
                self._policy, self._fell_back = part._policy, True
            if layer == self.layers - 1:
                self.chunks = part.chunks

    def tokens(self, layer: int) -> int:
        """Committed tokens of a layer, at most the budget."""
        return self._kept[layer]

    def retained_positions(self) -> list[Tensor]:
        """Per layer, the committed tokens' positions as given (n, 3), oldest first."""
        return [self._positions[layer, :kept].clone() for layer, kept in enumerate(self._kept)]

    def committed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies of the committed tokens' keys, as they were stored, and values, each (kept, H, D)."""
        some, kept = slice(layer, layer + 1), self._kept[layer]
        return self._keys.read(some, kept)[0].clone(), self._values.read(some, kept)[0].clone()

    def numbers(self, layer: int) -> Tensor:
        """Numbers since the stream began (n,): n = kept + chunk while a chunk is open, else kept."""
        return self._numbers[layer, : self._filled(layer)]

    def retained_numbers(self) -> list[Tensor]:
        """Per layer, the committed tokens' numbers since the stream began (n,), oldest first."""
        return [self._numbers[layer, :kept].clone() for layer, kept in enumerate(self._kept)]

    def retained_scores(self) -> list[Tensor]:
        """Per layer, the committed tokens' scores (n,), oldest first; 0 under a policy that has none."""
        return [self._scores[layer, :kept].clone() for layer, kept in enumerate(self._kept)]

    @property
    def nbytes(self) -> int:
        """Bytes that are this session's own: constant, and equal to ``promised_bytes`` of the same geometry."""
        return sum(tensor.nbytes for tensor in self._stored().values())

    def snapshot(self) -> dict[str, Tensor]:
        """The committed state as tensors; an open chunk is not part of it."""
        longest = max(self._kept)
        state = {name: tensor[:, :longest].cpu().clone() for name, tensor in self._stored().items()}
        counters = [self.chunks, self.evicted_tokens, int(self.fell_back), *self._kept]
        return {**state, "counters": torch.tensor(counters, dtype=torch.int64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a snapshot of a cache with the same geometry. Raises CacheError and changes nothing if not."""
        kept = self._checked_state(state)
        for name, tensor in self._stored().items():
            tensor.zero_()
            tensor[:, : max(kept)] = state[name].to(tensor.device)
        self.chunks, self.evicted_tokens, fell_back = (int(n) for n in state["counters"][:COUNTERS])
        self._fell_back, self._sound = bool(fell_back), None
        self._policy = policy_named(config.FALLBACK_POLICY if fell_back else self._configured)
        self._kept = kept
        self._written = None

    def save(self) -> bytes:
        """The snapshot as safetensors bytes."""
        return save_safetensors(self.snapshot())

    def load(self, data: bytes) -> None:
        """Restore from ``save``'s bytes. Raises CacheError when they are not such bytes."""
        try:
            state = load_safetensors(data)
        except Exception as error:  # safetensors raises its own type and plain ValueErrors alike
            raise CacheError(f"the cache snapshot of {len(data)} bytes cannot be read: {error}") from error
        self.restore(state)

    def check_integrity(self) -> None:
        """Raise CacheCorrupt if the committed state breaks a promise: budget, order, finite numbers, sink first."""
        for layer, kept in enumerate(self._kept):
            if not 0 <= kept <= self.budget:
                raise CacheCorrupt(f"layer {layer} holds {kept} tokens, budget {self.budget}")
            if bool((self._numbers[layer, :kept].diff() <= 0).any()):
                raise CacheCorrupt(f"layer {layer}: tokens are not in the order in which they came")
            keys, values = self.committed(layer)
            held = {"keys": keys, "values": values}
            held |= {"positions": self._positions[layer, :kept], "scores": self._scores[layer, :kept]}
            for name, tensor in held.items():
                if not bool(tensor.isfinite().all()):
                    raise CacheCorrupt(f"layer {layer}: {name} hold a number that is not finite")

    def _stored(self) -> dict[str, Tensor]:
        rows = {"keys": self._keys, "values": self._values}
        held = {name + suffix: tensor for name, each in rows.items() for suffix, tensor in each.tensors.items()}
        return held | {name: getattr(self, f"_{name}") for name in ABOUT}

    def _filled(self, layer: int) -> int:
        return self._kept[layer] + (self.chunk if self._written is not None else 0)

    def _runs(self, by_bytes: bool = False) -> Iterator[tuple[slice, int]]:
        """Neighbouring layers that hold equally many tokens, and how many: usually all layers. ``by_bytes``: so few
        at a time that their keys may be copied."""
        start = 0
        for kept, equal in groupby(self._kept):
            end = start + len(list(equal))
            step = at_once(self._workspace.fresh[0, 0].nbytes, kept + self.chunk, end - start) if by_bytes else end
            for first in range(start, end, max(1, step)):
                yield slice(first, min(first + step, end)), kept
            start = end

    def _check_evidence(self, evidence: Evidence) -> None:
        """Shapes of what was given; what the policy needs and did not get it will name itself."""
        given = evidence.salience
        if given is not None and given.shape != (self.layers, self.chunk):
            raise CacheError(f"salience has shape {tuple(given.shape)}, expected ({self.layers}, {self.chunk})")
        for name in ("attention", "affinity", "future"):
            rows = getattr(evidence, name)
            if rows is None:
                continue
            lengths, expected = [len(row) for row in rows], [self._filled(layer) for layer in range(self.layers)]
            if lengths != expected:
                raise CacheError(f"evidence {name!r} has {lengths} tokens by layer, expected {expected}")
        for name in self._policy.needs:
            if getattr(evidence, name) is None:
                raise CacheError(f"policy {self.policy!r} needs evidence {name!r}, but commit was not given any")

    def _updated_scores(self, evidence: Evidence) -> list[Tensor]:
        """Per layer (n,): what the policy makes of the stored scores and of what was just observed."""
        stored = [self._scores[layer, : self._filled(layer)] for layer in range(self.layers)]
        return [self._policy.update(self._candidates(layer, row, evidence)) for layer, row in enumerate(stored)]

    def _choose(self, layer: int, scores: Tensor, evidence: Evidence) -> Choice:
        choice = self._policy.keep(self._candidates(layer, scores, evidence))
        self._check(choice.indices, layer)
        return choice

    def _spare_indices(self, filled: int) -> Tensor:
        """What the fallback policy keeps of so many tokens of any layer: the first and the newest."""
        places = torch.arange(filled, device=self._numbers.device)
        gone = max(0, filled - self.budget)
        return torch.cat((places[: self.sink], places[self.sink + gone :]))

    def _candidates(self, layer: int, scores: Tensor, evidence: Evidence) -> Candidates:
        end, some = self._filled(layer), slice(layer, layer + 1)
        kept = self._kept[layer]
        return Candidates(
            positions=self._positions[layer, :end],
            numbers=self._numbers[layer, :end],
            scores=scores,
            read_keys=lambda: torch.cat((self._keys.read(some, kept)[0], self._workspace.fresh[layer])),
            read_values=lambda: self._workspace.values[layer, :end],
            budget=self.budget,
            sink=self.sink,
            recent=self.recent,
            seed=self.seed,
            chunk=self.chunks,
            layer=self._first_layer + layer,
            fresh=self.chunk,
            **evidence.of_layer(layer),
        )

    def _check(self, indices: Tensor, layer: int) -> None:
        """A policy is a guest: what it returns must fit the slots, or a later chunk would overwrite its neighbour.

        Their number is checked everywhere; they themselves where looking at them is free.
        """
        if len(indices) > self.budget:
            raise CacheError(f"policy {self._policy.name!r} kept {len(indices)} tokens, budget {self.budget}")
        if indices.device.type != "cpu" or not len(indices):
            return
        if bool((indices.diff() <= 0).any()) or int(indices[-1]) >= self._filled(layer):
            raise CacheError(f"policy {self._policy.name!r} must return sorted, distinct indices of its candidates")

    def _compact(self, indices: list[Tensor]) -> None:
        """Keep the tokens at ``indices``, (k,) per layer, in order."""
        counts = [len(each) for each in indices]
        for some, kept in list(self._runs(by_bytes=True)):
            layers = range(self.layers)[some]
            for count, equal in groupby(layers, key=lambda layer: counts[layer]):
                chosen = list(equal)
                part = slice(chosen[0], chosen[-1] + 1)
                if count == kept + self.chunk:  # nothing goes
                    self._keys.append(part, kept, self._workspace.fresh[part])
                    self._values.append(part, kept, self._workspace.values[part, kept:count])
                else:
                    self._move(part, kept, torch.stack([indices[layer] for layer in chosen]), fresh=True)
        self.evicted_tokens += sum(kept + self.chunk - count for kept, count in zip(self._kept, counts, strict=True))
        self._kept = counts

    def _move(self, layers: slice, kept: int, indices: Tensor, fresh: bool) -> None:
        """Bring the tokens at ``indices`` (l, k) to the front: of the kept, and of a ``fresh`` chunk behind them."""
        end = kept + self.chunk if fresh else kept
        new = self._workspace.fresh[layers] if fresh else self._workspace.fresh[layers, :0]
        self._keys.keep(layers, kept, new, indices)
        self._values.keep(layers, kept, self._workspace.values[layers, kept:end], indices)
        for name in ABOUT:
            about = self._stored()[name][layers]
            about[:, : indices.shape[1]] = gathered(about[:, :end], indices)

    def _checked_state(self, state: dict[str, Tensor]) -> list[int]:
        """Tokens per layer of a snapshot that fits this cache."""
        missing = {*self._stored(), "counters"} - state.keys()
        if missing:
            raise CacheError(f"the cache snapshot lacks {', '.join(sorted(missing))}")
        if state["counters"].shape != (COUNTERS + self.layers,):
            found = tuple(state["counters"].shape)
            raise CacheError(f"snapshot tensor 'counters' has shape {found}, expected ({COUNTERS + self.layers},)")
        kept = [int(n) for n in state["counters"][COUNTERS:]]
        if not all(0 <= n <= self.budget for n in kept):
            raise CacheError(f"the snapshot holds {max(kept)} tokens in a layer, this cache's budget is {self.budget}")
        for name, tensor in self._stored().items():
            expected = (self.layers, max(kept), *tensor.shape[2:])
            if state[name].shape != expected or state[name].dtype != tensor.dtype:
                given = f"{state[name].dtype} {tuple(state[name].shape)}"
                raise CacheError(f"snapshot tensor {name!r} is {given}, this cache needs {tensor.dtype} {expected}")
        return kept
