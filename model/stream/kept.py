"""The content of a cache, host memory included, small enough to send with every chunk: for each latent frame a small
picture of its kept tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cache.kv_cache import KVCache
from model.spec import ModelSpec
from model.stream.chunk_stats import KeptTokens

MOST_CELLS = 512  # cells per latent frame; finer token grids are averaged down


def kept_tokens(cache: KVCache, spec: ModelSpec) -> KeptTokens:
    """The cache's content as pictures of at most MOST_CELLS cells."""
    numbers, scores, per_latent = cache.retained_numbers(), cache.retained_scores(), spec.tokens_per_latent
    if waiting := [each.to(numbers[0].device) for each in cache.numbers_on_host()]:
        numbers = [torch.cat(pair) for pair in zip(numbers, waiting, strict=True)]
        scores = [torch.cat((score, score.new_zeros(len(each)))) for score, each in zip(scores, waiting, strict=True)]
    latents = torch.cat(numbers).div(per_latent, rounding_mode="floor").unique()
    layers = torch.zeros(len(latents) * per_latent, device=latents.device)
    ranks = torch.zeros_like(layers)
    for layer_numbers, layer_scores in zip(numbers, scores, strict=True):
        frame = torch.searchsorted(latents, layer_numbers.div(per_latent, rounding_mode="floor"))
        place = frame * per_latent + layer_numbers % per_latent
        layers[place] += 1
        ranks[place] += _ranks(layer_scores)
    scored = any(bool(score.any()) for score in scores)
    kept, salience = layers / cache.layers, ranks / layers.clamp(min=1)
    rows, columns = spec.token_rows, spec.token_columns
    kept, salience = (each.view(-1, rows, columns) for each in (kept, salience))
    while rows * columns > MOST_CELLS:
        salience = _halved(salience * kept) / _halved(kept).clamp(min=1e-6)
        kept = _halved(kept)
        rows, columns = kept.shape[1:]
    return KeptTokens(
        rows=rows,
        columns=columns,
        latents=latents.tolist(),
        kept=_bytes(kept),
        salience=_bytes(salience) if scored else b"",
    )


def _ranks(scores: Tensor) -> Tensor:
    """Ranks from 0 (lowest score) to 1 (highest)."""
    return scores.argsort().argsort() / max(1, len(scores) - 1)


def _halved(grid: Tensor) -> Tensor:
    return F.avg_pool2d(grid[:, None], 2, ceil_mode=True, count_include_pad=False)[:, 0]


def _bytes(values: Tensor) -> bytes:
    return (values * 255).round().to(torch.uint8).cpu().numpy().tobytes()
