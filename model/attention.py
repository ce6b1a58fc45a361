"""Attention, and who sees whom.

``attend`` is the arithmetic. A strategy is called once per block as ``attention(layer, q, k, v) -> out`` with
QK-normed, un-rotated queries and keys (B, S, H, D); it rotates them and decides which keys each query sees.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.scoring import received_attention
from model import rope
from model.salience import SalienceHead
from model.spec import ModelSpec


class Attention(Protocol):
    """Who sees whom, for one pass over the blocks."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (B, S, H, D), un-rotated -> (B, S, H, D)."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v for q (B, Sq, H, D) and k, v (B, Sk, H, D) -> (B, Sq, H, D).

    ``mask``, (Sq, Sk) or anything that broadcasts to (B, H, Sq, Sk), is True where a query may look.
    On a CPU, bf16 by hand is about twice as fast as the fused kernel, which gains nothing from bf16 there.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out = scores.softmax(dim=-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


class Bidirectional:
    """Every token sees every token: the teacher, and clips in one pass. positions (B|1, S, 3)."""

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


class Cached:
    """The current chunk sees the cache and itself; made anew for each chunk, after ``cache.begin_chunk``.

    Positions do not change while a chunk is denoised, so each layer's angles are computed in the first pass only.
    A pass with a ``watch`` lets it see what is attended to.
    """

    def __init__(self, cache: KVCache, spec: ModelSpec) -> None:
        self._cache = cache
        self._spec = spec
        self._rotations: dict[int, rope.Rotation] = {}
        self.watch: Watch | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.extend(layer, k, v)
        cos, sin = self._rotation(layer)
        chunk = q.shape[1]
        q, stored, keys = rope.apply(q, cos[:, -chunk:], sin[:, -chunk:]), keys, rope.apply(keys, cos, sin)
        if self.watch is not None:
            self.watch.see(q[0], keys[0], stored[0], self._cache.positions(layer)[0])
        return attend(q, keys, values)

    def _rotation(self, layer: int) -> rope.Rotation:
        if layer not in self._rotations:
            positions = self._cache.positions(layer)
            self._rotations[layer] = rope.angles(positions, self._spec.rope_split, self._spec.rope_theta)
        return self._rotations[layer]


class Watch:
    """Gathers in one clean pass what the cache's policy asks for, and nothing else."""

    def __init__(self, needs: frozenset[str], spec: ModelSpec) -> None:
        self._needs, self._spec = needs, spec
        self._places: list[Tensor] = []
        self._attention: list[Tensor] = []

    def see(self, q: Tensor, keys: Tensor, stored: Tensor, positions: Tensor) -> None:
        """Once per layer, in order: rotated q (chunk, H, D) and keys (kept + chunk, H, D), the keys as they are
        stored, un-rotated, and their positions (kept + chunk, 3)."""
        if "places" in self._needs:
            nowhen = positions * positions.new_tensor((0, 1, 1))
            angles = rope.angles(nowhen[None], self._spec.rope_split, self._spec.rope_theta)
            self._places.append(rope.apply(stored[None], *angles)[0])
        if "attention" in self._needs:
            self._attention.append(received_attention(q, keys))

    def evidence(self, cache: KVCache, head: SalienceHead | None) -> Evidence:
        """What ``cache.commit`` wants, after the pass."""
        score = head is not None and "salience" in self._needs
        return Evidence(
            salience=head(*cache.open_chunk()) if score and head is not None else None,
            attention=self._attention or None,
            places=self._places or None,
        )
