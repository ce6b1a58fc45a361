"""Attention in the student's training: every chunk appears twice, clean and noisy, and parts of the past are hidden.

The sequence is [clean | noisy]. A clean chunk sees the clean chunks up to itself; a noisy chunk sees the clean ones
before it and itself, as in denoising over a cache. A ``Past`` hides old tokens like a cache with a budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.spec import ModelSpec
from model.transformer import rope
from model.transformer.attention import attend


@dataclass(frozen=True)
class Past:
    """Worth of every token (B, S), and budget of each clip (B,) in tokens. The previous chunk is always visible unless
    forgotten: ``forgotten`` (B, S) is the first token whose chunk no longer sees a token.

    With fixed worths the visible sets are those of a streaming cache: an evicted token never returns.
    """

    worth: Tensor
    budget: Tensor
    forgotten: Tensor

    def visible(self, tokens: int, recent: int) -> Tensor:
        """(B, tokens): True if a past token is still in the cache."""
        worth = self.worth[:, :tokens].clone()
        worth[:, tokens - recent :] += 1e6
        rank = worth.argsort(dim=1, descending=True).argsort(dim=1)
        kept = rank < self.budget.clamp(min=recent)[:, None]
        return kept & (self.forgotten[:, :tokens] > tokens)


def forgotten_in_sight(positions: Tensor, new: Tensor, spec: ModelSpec) -> Tensor:
    """(B, S): for every token, the first token of the chunk in ``new`` (B, G) that has its place in view, or S + 1: a
    new prompt makes the stream forget the view."""
    columns, total = positions[..., 2], positions.shape[1]
    forgotten = torch.full(columns.shape, total + 1, device=columns.device)
    for chunk in range(new.shape[1] - 1, 0, -1):
        first = chunk * spec.tokens_per_chunk
        sight = columns[:, first : first + spec.tokens_per_chunk]
        inside = (columns > sight.amin(1, True) - 0.5) & (columns < sight.amax(1, True) + 0.5)
        inside[:, first:] = False
        forgotten = torch.where(inside & new[:, chunk, None], first, forgotten)
    return forgotten


def random_past(generator: torch.Generator, forgotten: Tensor, spec: ModelSpec, share: float) -> Past:
    """For a ``share`` of the batches: budgets of 1 to 8 latent frames, with random worth, worth by recency, or sinks
    first."""
    batch, total = forgotten.shape
    if torch.rand((), generator=generator) > share:
        return Past(torch.zeros(batch, total), torch.full((batch,), total), forgotten)
    tokens = spec.tokens_per_latent
    frames = total // tokens
    worth = torch.rand(batch, frames * tokens, generator=generator)
    recency = torch.arange(frames * tokens).float() + 1
    kind = torch.randint(0, 4, (batch, 1), generator=generator)
    worth = torch.where(kind == 2, recency, worth)
    sinks_first = torch.where(torch.arange(frames * tokens) < tokens, 1e5 + recency, recency)
    worth = torch.where(kind == 3, sinks_first, worth)
    budget = torch.randint(spec.chunk_latents * tokens, 9 * tokens, (batch,), generator=generator)
    return Past(worth, budget, forgotten)


class TeacherForced:
    """The attention strategy of the student's training; positions (B, S, 3) of one copy of the clip."""

    def __init__(self, positions: Tensor, spec: ModelSpec, past: Past | None = None) -> None:
        cos, sin = rope.angles(positions, spec.rope_split, spec.rope_theta)
        self._rotation = torch.cat([cos, cos], 1), torch.cat([sin, sin], 1)
        self._tokens = positions.shape[1]
        self._chunk = spec.tokens_per_chunk
        starts = range(self._chunk, self._tokens, self._chunk)
        seen = {start: past.visible(start, self._chunk) for start in starts} if past else {}
        self._masks = {start: mask.to(positions.device) for start, mask in seen.items() if not bool(mask.all())}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rope.apply(q, *self._rotation), rope.apply(k, *self._rotation)
        clean, noisy = [], []
        for start in range(0, self._tokens, self._chunk):
            clean.append(self._chunk_attention(q, k, v, start, start))
            noisy.append(self._chunk_attention(q, k, v, start, start + self._tokens))
        return torch.cat(clean + noisy, 1)

    def _chunk_attention(self, q: Tensor, k: Tensor, v: Tensor, past: int, own: int) -> Tensor:
        """The chunk at ``own`` attends to the clean tokens before ``past`` and to itself."""
        here = slice(own, own + self._chunk)
        keys = torch.cat([k[:, :past], k[:, here]], 1)
        values = torch.cat([v[:, :past], v[:, here]], 1)
        return attend(q[:, here], keys, values, self._mask(past))

    def _mask(self, past: int) -> Tensor | None:
        if past not in self._masks:
            return None
        seen = self._masks[past]
        own = torch.ones(len(seen), self._chunk, dtype=torch.bool, device=seen.device)
        return torch.cat([seen, own], 1)[:, None, None, :]
