"""Attention: which tokens attend to which.

``attend`` is the arithmetic. A strategy is called once per block as ``attention(layer, q, k, v) -> out`` with
QK-normed, un-rotated queries and keys (B, S, H, D). It rotates them and decides which keys each query sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cache.group import ALONE, Group
from cache.kv_cache import KVCache
from cache.open_chunk import RotateByTime
from cache.policy import Evidence
from cache.scoring import attention_by_head, expected_affinity, mean_affinity, received_attention
from model.spec import ModelSpec
from model.transformer import rope
from model.transformer.asking import Heads


class Attention(Protocol):
    """A strategy for one pass over the blocks: which keys each query sees."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, S, H, D), un-rotated -> (B, S, H, D)."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v for q (B, Sq, H, D) and k, v (B, Sk, H, D) -> (B, Sq, H, D).

    ``mask``, (Sq, Sk) or broadcastable to (B, 1, Sq, Sk), is True where a query may attend. On a CPU, plain bf16
    products are about twice as fast as the fused kernel, which gains nothing from bf16 there.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        out = attend_plainly(q, k, v, mask)
    elif mask is None and (kernel := FUSED.get(q.device.type)) is not None:
        with sdpa_kernel(kernel):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As ``attend``, for (B, H, S, D), with plain products, a few heads at a time: scores that stay in the CPU's cache
    make attention up to 1.4 times as fast."""
    heads = max(1, SCORES_AT_ONCE // (q.element_size() * q.shape[0] * q.shape[2] * k.shape[2]))
    parts = zip(*(each.split(heads, 1) for each in (q * q.shape[-1] ** -0.5, k, v)), strict=True)
    seen = [_attend_at_once(few, keys, values, mask) for few, keys, values in parts]
    return seen[0] if len(seen) == 1 else torch.cat(seen, 1)


def _attend_at_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


SCORES_AT_ONCE = 2**24  # bytes
PromptKeys = Sequence[Tensor]  # per layer, the prompt's cross-attention keys (slots, H, D)
NOBODY = Heads()
Rotate = Callable[[Tensor, Tensor, Tensor], Tensor]  # rope.apply or its twin
FUSED: dict[str, SDPBackend] = {}  # by device type, the fastest kernel according to ``choose_kernel``
CANDIDATES = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
TRIES = 5


def choose_kernel(q: Tensor, k: Tensor, v: Tensor) -> dict[str, float]:
    """Time a GPU's fused kernels on tensors as ``attend`` gets them, and use the fastest from now on.

    Returns milliseconds by name; kernels that cannot run on this device are left out.
    """
    took: dict[SDPBackend, float] = {}
    for kernel in CANDIDATES:
        FUSED[q.device.type] = kernel
        try:
            attend(q, k, v)
        except RuntimeError:
            continue
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(TRIES):
            attend(q, k, v)
        end.record()
        end.synchronize()
        took[kernel] = begin.elapsed_time(end) / TRIES
    FUSED.pop(q.device.type)
    if took:
        FUSED[q.device.type] = min(took, key=lambda kernel: took[kernel])
    return {kernel.name.removesuffix("_ATTENTION").lower(): took[kernel] for kernel in took}


class Bidirectional:
    """Every token sees every token: for the teacher, and for clips in one pass. positions (B|1, S, 3)."""

    def __init__(self, positions: Tensor, spec: ModelSpec) -> None:
        self._rotation = rope.angles(positions, spec.rope_split, spec.rope_theta)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(rope.apply(q, *self._rotation), rope.apply(k, *self._rotation), v)


class BlockCausal:
    """A token sees its own block of ``block_tokens`` and all earlier ones: the slow twin of ``Cached``, in one pass."""

    def __init__(self, positions: Tensor, spec: ModelSpec, block_tokens: int) -> None:
        self._rotation = rope.angles(positions, spec.rope_split, spec.rope_theta)
        block = torch.arange(positions.shape[1], device=positions.device) // block_tokens
        self._mask = block.unsqueeze(1) >= block.unsqueeze(0)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(rope.apply(q, *self._rotation), rope.apply(k, *self._rotation), v, self._mask)


@dataclass(frozen=True)
class Angles:
    """Rotation angles of a chunk's queries and keys. They are the same in every layer, so they are computed once per
    chunk."""

    whole: rope.Rotation
    place: rope.Rotation  # by row and column only

    @classmethod
    def of(cls, positions: Tensor, spec: ModelSpec) -> Angles:
        """positions (B|1, chunk, 3), as re-indexed by the cache."""
        places = rope.without_time(positions)
        return cls(*(rope.angles(each, spec.rope_split, spec.rope_theta) for each in (positions, places)))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, for a CUDA graph's buffers."""
        return [*self.whole, *self.place]


def rotate_by_time(spec: ModelSpec) -> RotateByTime:
    """A function that rotates kept keys by time, so that they can be attended to; called once per chunk for all
    layers."""
    return lambda keys, times: rope.rotate_time(keys, times, spec.rope_split, spec.rope_theta)


class Cached:
    """The current chunk sees the cache and itself. Create one per chunk, after ``cache.begin_chunk``.

    The last pass of a chunk has a ``watch``: its keys are stored, and the watch observes its attention. In a ``group``
    queries, keys and values are those of this process's tokens, and so is the result.
    """

    def __init__(self, cache: KVCache, angles: Angles, rotate: Rotate = rope.apply, group: Group = ALONE) -> None:
        self._cache, self._angles, self._rotate, self._group = cache, angles, rotate, group
        self.watch: Watch | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.watch is not None:
            self.watch.see_tokens(layer, k[0], v[0])
        q, k, v = self._group.to_heads(q, k, v)
        plain, rotated = q, self._rotate(k, *self._angles.whole)
        q = self._rotate(q, *self._angles.whole)
        keys, values = self._cache.extend(layer, rotated, v)
        if self.watch is not None:
            self._cache.store(layer, self._rotate(k, *self._angles.place))
            self.watch.see(layer, q[0], keys[0], values[0])
            self.watch.expect(plain[0], keys[0], self._angles.whole)
        return self._group.to_tokens(attend(q, keys, values))


class Rewriting:
    """Writes several chunks to the cache in one pass. In each layer the chunks follow one another, and each sees what
    the policy has kept of those before. The slow twin runs one pass per chunk. ``positions`` are (chunk, 3) per
    chunk."""

    def __init__(
        self,
        cache: KVCache,
        positions: Sequence[Tensor],
        spec: ModelSpec,
        heads: Heads,
        told: PromptKeys,
        rotate: Rotate = rope.apply,
        group: Group = ALONE,
    ) -> None:
        self._cache, self._positions, self._spec = cache, positions, spec
        self._heads, self._told, self._rotate, self._group = heads, told, rotate, group
        self._angles: list[Angles] = []  # per chunk, the same in all layers

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = self._cache.chunk // self._group.size
        chunks = zip(*(each.split(own, 1) for each in (q, k, v)), strict=True)
        with self._cache.alone(layer) as alone:
            return torch.cat([self._write(alone, layer, place, *chunk) for place, chunk in enumerate(chunks)], 1)

    def _write(self, alone: KVCache, layer: int, place: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        alone.begin_chunk(self._positions[place], rotate_by_time(self._spec))
        if place == len(self._angles):
            self._angles.append(Angles.of(alone.chunk_positions(), self._spec))
        attention = Cached(alone, self._angles[place], self._rotate, self._group)
        attention.watch = Watch(alone.needs, self._heads, self._told, layer, self._group, self._spec)
        seen = attention(0, q, k, v)
        alone.commit(attention.watch.evidence())
        return seen


def prompt_keys(context: Sequence[tuple[Tensor, Tensor]], row: int = 0) -> list[Tensor]:
    """The cross-attention keys of a prompt, per layer (slots, H, D); ``row`` is the stream's index in the batch."""
    return [keys[row, 0] for keys, _ in context]


class Watch:
    """Gathers, in one clean pass, the evidence that the cache's policy needs, layer by layer: for all heads together,
    and the same in all processes of a ``group``."""

    def __init__(
        self,
        needs: frozenset[str],
        heads: Heads = NOBODY,
        told: PromptKeys = (),
        first_layer: int = 0,
        group: Group = ALONE,
        spec: ModelSpec | None = None,
    ) -> None:
        self._needs, self._heads, self._told, self._first_layer = needs, heads, told, first_layer
        self._group, self._spec = group, spec
        self._seen: dict[str, list[Tensor]] = {}

    def see_tokens(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Called once per layer, in order, before ``see``: un-rotated keys and values of this process's tokens of the
        chunk, with all heads (chunk / size, H, D)."""
        if "salience" in self._needs and self._heads.salience is not None:
            scores = self._heads.salience.score(self._first_layer + layer, k, v)
            self._note("salience", self._group.all_tokens(scores, 0))

    def see(self, layer: int, q: Tensor, keys: Tensor, values: Tensor) -> None:
        """Called once per layer, in order: the chunk's rotated queries (chunk, H, D), all rotated keys and all values
        (kept + chunk, H, D), with this process's heads."""
        heads, own, group = self._heads, self._first_layer + layer, self._group
        if "asked" in self._needs and heads.asking is not None:
            self._note("asked", heads.asking.asked(own, group.all_heads(values), self._told[own]))
        if "attention" in self._needs:
            self._note("attention", group.mean(received_attention(q, keys)))
        if "strongest" in self._needs:
            self._note("strongest", group.all_heads(attention_by_head(q, keys), 0).amax(0))
        if "affinity" in self._needs:
            self._note("affinity", group.mean(mean_affinity(q, keys)))
        if "told" in self._needs:
            self._note("told", group.mean(mean_affinity(group.own_heads(self._told[own]), keys)))

    def expect(self, q: Tensor, keys: Tensor, rotation: rope.Rotation) -> None:
        """Called after ``see``: the chunk's queries (chunk, H, D) before their rotation, all rotated keys, and the
        chunk's ``rotation`` (B, chunk, 1, D / 2); streams side by side have the same times."""
        if "expected" in self._needs and self._spec is not None:
            now, ahead = rope.later(rotation, self._spec.rope_split, self._spec.rope_theta)
            queries, held = (rope.time_pairs(each, self._spec.rope_split) for each in (q, keys))
            self._note("expected", self._group.mean(expected_affinity(queries, held, now, ahead)))

    def _note(self, name: str, row: Tensor) -> None:
        self._seen.setdefault(name, []).append(row)

    def evidence(self) -> Evidence:
        """The evidence for ``cache.commit``, after the pass."""
        salience = self._seen.get("salience")
        others = {name: rows for name, rows in self._seen.items() if name != "salience"}
        return Evidence(salience=torch.stack(salience) if salience else None, **others)
