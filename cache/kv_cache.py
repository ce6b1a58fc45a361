"""One session's keys and values over all layers, in slots that are allocated once.

The slots of a layer hold its kept tokens first, oldest first, and then the current chunk, so that attention always
reads one dense prefix. Keys are stored un-rotated with their positions: rotating stored bf16 keys again and again
would add up an error over an hour-long stream, and positions may be re-indexed at every chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from cache import config
from cache.errors import CacheCorrupt, CacheError, ScoresNotFinite
from cache.policy import Candidates, Evidence, Policy, policy_named

STORED = ("keys", "values", "positions", "numbers", "scores")
NO_EVIDENCE = Evidence()
COUNTERS = 3  # chunks, evicted tokens, fell back; then the tokens of each layer


class KVCache:
    """Key/value cache of one session.

    Sizes ``budget``, ``chunk``, ``sink`` and ``recent`` are tokens per layer. ``position_range`` is the number of
    latent frames seen in training: temporal positions are re-indexed into it (relative mode), or left as they are
    when it is None (absolute mode). ``seed`` feeds policies that draw.
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
        self.fell_back = False  # scores were not finite: the fallback policy is in force from then on
        slots = (layers, budget + chunk)
        self._keys = torch.zeros(*slots, heads, head_dim, dtype=dtype, device=device)
        self._values = torch.zeros_like(self._keys)
        self._positions = torch.zeros(*slots, 3, device=device)
        self._numbers = torch.zeros(slots, dtype=torch.int64, device=device)
        self._scores = torch.zeros(slots, device=device)
        self._kept = [0] * layers
        self._written: set[int] | None = None  # layers written since begin_chunk; None between chunks
        self.chunks = 0  # committed so far
        self.evicted_tokens = 0  # since construction, summed over layers

    def begin_chunk(self, positions: Tensor) -> None:
        """Open a chunk of tokens at ``positions`` (chunk, 3); a chunk that was begun but never committed is dropped."""
        if positions.shape != (self.chunk, 3):
            raise CacheError(f"chunk positions have shape {tuple(positions.shape)}, expected ({self.chunk}, 3)")
        first, last = (round(float(place)) for place in positions[[0, -1], 0])
        # A token is numbered by its latent frame, so that a stream that lost chunks goes on with the right numbers.
        begin = first * self.chunk // (last - first + 1)
        numbers = torch.arange(begin, begin + self.chunk, device=self._numbers.device)
        for layer, kept in enumerate(self._kept):
            tail = slice(kept, kept + self.chunk)
            self._positions[layer, tail] = positions
            self._numbers[layer, tail] = numbers
            self._scores[layer, tail] = 0
        self._written = set()

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the open chunk's un-rotated keys and values (1, chunk, H, D) and return all that it may attend to.

        Returns dense views (1, kept + chunk, H, D). Every denoising pass overwrites the slots of the one before.
        """
        if self._written is None:
            raise CacheError("extend without begin_chunk: a chunk's positions must be known before its keys")
        expected = (1, self.chunk, *self._keys.shape[2:])
        if keys.shape != expected or values.shape != expected:
            raise CacheError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be {expected}")
        kept, end = self._kept[layer], self._kept[layer] + self.chunk
        self._keys[layer, kept:end] = keys[0]
        self._values[layer, kept:end] = values[0]
        self._written.add(layer)
        return self._keys[layer, :end].unsqueeze(0), self._values[layer, :end].unsqueeze(0)

    def positions(self, layer: int) -> Tensor:
        """Positions (1, n, 3) to rotate by: n = kept + chunk while a chunk is open, else kept.

        In relative mode the newest token stands at position_range - 1, and whatever is older than the range
        stands at 0, so that a stream of any length stays inside the positions that the model was trained on.
        """
        positions = self._positions[layer, : self._filled(layer)].unsqueeze(0)
        if self.position_range is None:
            return positions
        newest = positions[:, -1:, 0]
        time = (positions[..., 0] - newest + (self.position_range - 1)).clamp(min=0)
        return torch.cat((time.unsqueeze(-1), positions[..., 1:]), dim=-1)

    def open_chunk(self) -> tuple[Tensor, Tensor]:
        """Un-rotated keys and values of the open chunk, each (layers, chunk, H, D)."""
        if self._written is None:
            raise CacheError("no chunk is open")
        tails = [slice(kept, kept + self.chunk) for kept in self._kept]
        keys, values = (
            torch.stack([stored[layer, tail] for layer, tail in enumerate(tails)])
            for stored in (self._keys, self._values)
        )
        return keys, values

    @property
    def policy(self) -> str:
        """Name of the policy in force."""
        return self._policy.name

    @property
    def needs(self) -> frozenset[str]:
        """Fields of Evidence that ``commit`` wants; empty for policies that look at nothing."""
        return self._policy.needs

    def commit(self, evidence: Evidence = NO_EVIDENCE) -> None:
        """Close the chunk: the policy decides, layer by layer, which tokens stay.

        Raises before anything is changed, so that a failed commit leaves the cache as it was. Scores that are not
        finite are no failure: the session falls back to a policy without scores, for good (``fell_back``).
        """
        if self._written is None or len(self._written) < self.layers:
            raise CacheError(f"commit needs keys of all {self.layers} layers, got {len(self._written or ())}")
        self._check_evidence(evidence)
        try:
            scores = self._updated_scores(evidence)
            kept = self._choose(scores, evidence)
        except ScoresNotFinite:
            self._policy, self.fell_back = policy_named(config.FALLBACK_POLICY), True
            scores = [torch.zeros_like(self._scores[layer, : self._filled(layer)]) for layer in range(self.layers)]
            kept = self._choose(scores, NO_EVIDENCE)
        for layer, indices in enumerate(kept):
            self._scores[layer, : self._filled(layer)] = scores[layer]
            self.evicted_tokens += self._filled(layer) - len(indices)
            self._compact(layer, indices)
        self._written = None
        self.chunks += 1

    def forget_from(self, number: int) -> None:
        """Drop all tokens from ``number`` on, and an open chunk; what they displaced stays gone."""
        self.forget([numbers >= number for numbers in self.retained_numbers()])

    def forget(self, gone: Sequence[Tensor]) -> None:
        """Drop the committed tokens that are True in ``gone``, (kept,) bool per layer, and an open chunk."""
        for layer, each in enumerate(gone):
            self._compact(layer, (~each).nonzero().flatten())
        self._written = None

    def tokens(self, layer: int) -> int:
        """Committed tokens of a layer, at most the budget."""
        return self._kept[layer]

    def retained_positions(self) -> list[Tensor]:
        """Per layer, the committed tokens' positions as given (n, 3), oldest first."""
        return [self._positions[layer, :kept].clone() for layer, kept in enumerate(self._kept)]

    def committed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Copies of the committed tokens' un-rotated keys and values, each (kept, H, D)."""
        kept = self._kept[layer]
        return self._keys[layer, :kept].clone(), self._values[layer, :kept].clone()

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
        """Bytes allocated: constant from construction on, and equal to ``promised_bytes`` of the same geometry."""
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
        self.fell_back = bool(fell_back)
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
            for name in ("keys", "values", "positions", "scores"):
                if not bool(self._stored()[name][layer, :kept].isfinite().all()):
                    raise CacheCorrupt(f"layer {layer}: {name} hold a number that is not finite")

    def _stored(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"_{name}") for name in STORED}

    def _filled(self, layer: int) -> int:
        return self._kept[layer] + (self.chunk if self._written is not None else 0)

    def _check_evidence(self, evidence: Evidence) -> None:
        """Shapes of what was given; what the policy needs and did not get it will name itself."""
        given = evidence.salience
        if given is not None and given.shape != (self.layers, self.chunk):
            raise CacheError(f"salience has shape {tuple(given.shape)}, expected ({self.layers}, {self.chunk})")
        for name in ("attention", "places", "future"):
            rows = getattr(evidence, name)
            if rows is None:
                continue
            lengths, expected = [len(row) for row in rows], [self._filled(layer) for layer in range(self.layers)]
            if lengths != expected:
                raise CacheError(f"evidence {name!r} has {lengths} tokens by layer, expected {expected}")
        for name in self.needs:
            if getattr(evidence, name) is None:
                raise CacheError(f"policy {self.policy!r} needs evidence {name!r}, but commit was not given any")

    def _updated_scores(self, evidence: Evidence) -> list[Tensor]:
        """Per layer (n,): what was stored, with the chunk's salience or the attention just observed."""
        if evidence.salience is None and evidence.attention is None:
            return [self._scores[layer, : self._filled(layer)] for layer in range(self.layers)]
        scores = [self._scores[layer, : self._filled(layer)].clone() for layer in range(self.layers)]
        for layer, score in enumerate(scores):
            if evidence.salience is not None:
                score[-self.chunk :] = evidence.salience[layer]
            if evidence.attention is not None:
                score += evidence.attention[layer]
        if not all(bool(score.isfinite().all()) for score in scores):
            raise ScoresNotFinite(f"policy {self.policy!r}: a score that it was given is not finite")
        return scores

    def _choose(self, scores: list[Tensor], evidence: Evidence) -> list[Tensor]:
        return [
            self._checked(self._policy.keep(self._candidates(layer, scores[layer], evidence)), layer)
            for layer in range(self.layers)
        ]

    def _candidates(self, layer: int, scores: Tensor, evidence: Evidence) -> Candidates:
        end = self._filled(layer)
        stored = {name: tensor[layer, :end] for name, tensor in self._stored().items()}
        return Candidates(
            **{**stored, "scores": scores},
            budget=self.budget,
            sink=self.sink,
            recent=self.recent,
            seed=self.seed,
            chunk=self.chunks,
            layer=layer,
            places=None if evidence.places is None else evidence.places[layer],
            future=None if evidence.future is None else evidence.future[layer],
        )

    def _checked(self, indices: Tensor, layer: int) -> Tensor:
        """A policy is a guest: what it returns must fit the slots, or a later chunk would overwrite its neighbour."""
        if len(indices) > self.budget:
            raise CacheError(f"policy {self._policy.name!r} kept {len(indices)} tokens, budget {self.budget}")
        if len(indices) and (bool((indices.diff() <= 0).any()) or int(indices[-1]) >= self._filled(layer)):
            raise CacheError(f"policy {self._policy.name!r} must return sorted, distinct indices of its candidates")
        return indices

    def _compact(self, layer: int, indices: Tensor) -> None:
        """Move the tokens at ``indices`` to the front, in order; a prefix that stays in place is not copied."""
        count = len(indices)
        in_place = int((indices == torch.arange(count, device=indices.device)).sum())
        if in_place < count:
            for tensor in self._stored().values():
                tensor[layer, in_place:count] = tensor[layer, indices[in_place:]]
        self._kept[layer] = count

    def _checked_state(self, state: dict[str, Tensor]) -> list[int]:
        """Tokens per layer of a snapshot that fits this cache."""
        missing = {*STORED, "counters"} - state.keys()
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
