"""A chunk's figures: gathered on the device, and read by the host in one copy when the chunk is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.kv_cache import KVCache
from model.spec import ModelSpec

SCORED = frozenset({"salience", "attention"})  # evidence that sets the tokens' scores
QUANTILES = (0.1, 0.5, 0.9)
MOST_CHUNKS = 4096  # at most this many remembered chunks are reported; of more, the oldest are
NOBODY = -1.0
FLAGS = 2  # bools at the beginning: latents finite, scores finite


class StageClock:
    """Seconds by stage. On a GPU they come from events in its queue, so nothing waits for the end of a stage."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the enclosed block as stage ``name``."""
        began = time.perf_counter()
        begin = self._mark()
        yield
        if begin is not None and (end := self._mark()) is not None:
            self._marks[name] = (begin, end)
        self._seconds[name] = time.perf_counter() - began

    def _mark(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order. On a GPU the times are valid only after the device has finished them."""
        on_gpu = {name: begin.elapsed_time(end) / 1e3 for name, (begin, end) in self._marks.items()}
        return self._seconds | on_gpu


@dataclass(frozen=True)
class Figures:
    """``sound``: all scores are finite. ``remembered``: chunks of which some layer holds a token."""

    finite: bool  # the latents
    sound: bool
    quantiles: dict[str, float]  # of the kept tokens' scores over all layers; empty without scores
    remembered: tuple[int, ...]


def gather(cache: KVCache, spec: ModelSpec, finite: Tensor, scored: bool) -> Tensor:
    """All figures in one float32 tensor on the device; its length depends only on the cache's token count."""
    sound = cache.report()
    flags = torch.stack([finite, finite if sound is None else sound]).float()
    parts = [flags, _remembered(cache, spec.chunk_latents)]
    if scored:
        scores = torch.cat(cache.retained_scores()).sort().values
        places = [round(quantile * (len(scores) - 1)) for quantile in QUANTILES]
        parts.insert(1, torch.stack([scores[place] for place in places]))
    return torch.cat(parts)


def read(gathered: Tensor, scored: bool) -> Figures:
    """Decode the result of ``gather`` on the host."""
    numbers = gathered.tolist()
    finite, sound = (bool(flag) for flag in numbers[:FLAGS])
    end = FLAGS + (len(QUANTILES) if scored else 0)
    chunks = tuple(int(number) for number in numbers[end:] if number != NOBODY)
    quantiles = {f"{share:g}": value for share, value in zip(QUANTILES, numbers[FLAGS:end], strict=scored)}
    return Figures(finite, sound, quantiles, chunks)


def _remembered(cache: KVCache, chunk_latents: int) -> Tensor:
    """(k,) chunks of which some layer holds a token, ascending, padded with NOBODY: like ``unique``, with a fixed
    length."""
    latents = torch.cat([positions[:, 0] for positions in cache.retained_positions()])
    chunks = latents.round().div(chunk_latents, rounding_mode="floor").sort().values
    first = torch.ones_like(chunks, dtype=torch.bool)
    first[1:] = chunks[1:] != chunks[:-1]
    place = (first.cumsum(0) - 1).clamp(max=MOST_CHUNKS - 1)
    out = chunks.new_full((min(MOST_CHUNKS, len(chunks)),), NOBODY)
    return out.scatter_(0, place, chunks)
