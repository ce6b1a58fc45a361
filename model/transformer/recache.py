"""KV-recache: when the prompt changes, the newest chunks are written again under the new one, in one block-causal pass.

The keys that are attended to most then belong to the new prompt. Source: LongLive (2509.22622).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.kv_cache import KVCache
from model.transformer.dit import Context

Rewrite = Callable[[KVCache, Tensor, Sequence[Tensor], Context, Tensor | None], None]  # see Passes.rewrite


@dataclass(frozen=True)
class Finished:
    """A chunk that was made: its latents (1, F, C, h, w), the positions (tokens, 3) and the control (1, F, n) that its
    passes had."""

    index: int
    latents: Tensor
    positions: Tensor
    control: Tensor | None


def recache(cache: KVCache, again: Sequence[Finished], context: Context, rewrite: Rewrite) -> None:
    """Write the chunks ``again``, the newest of ``cache``, under the prompt of ``context``."""
    if not again:
        return
    cache.forget_from(again[0].index * cache.chunk)
    controls = [chunk.control for chunk in again if chunk.control is not None]
    latents = torch.cat([chunk.latents for chunk in again], 1)
    rewrite(cache, latents, [chunk.positions for chunk in again], context, torch.cat(controls, 1) if controls else None)


def chunks_again(cache: KVCache, index: int) -> int:
    """How many chunks before chunk ``index`` a new prompt has written again, at most: as many as the window holds, the
    open chunk included; once chunks have left the window, less what the sink takes of it."""
    window = (cache.budget + cache.chunk) // cache.chunk
    return window if index <= window else (cache.budget + cache.chunk - cache.sink) // cache.chunk
