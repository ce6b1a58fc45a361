"""The front's copy of a session from which another worker can continue: clean latents of a few chunks.

It keeps the chunks that still have tokens in the worker's cache or in host memory, so the new worker restores what the
policy chose to keep. Their number is limited: whole chunks fill the budget, while each latent frame in host memory may
be the last of its chunk. No torch here: latents are bytes.
"""

from __future__ import annotations

import math

from model.spec import ModelSpec
from server.ipc.messages import CacheChoice, CameraPosition, Fragment, Past, PastChunk


class ResumePoint:
    """Latents and counters of one session."""

    def __init__(self, spec: ModelSpec, cache: CacheChoice) -> None:
        self._most = math.ceil(cache.budget_latents / spec.chunk_latents) + math.ceil(cache.host_latents) + 1
        self._chunks: dict[int, PastChunk] = {}
        self.next_index = 0
        self._pictures = 0
        self._camera: CameraPosition = (0, 0, 0)

    def add(self, fragment: Fragment) -> None:
        """Add the newest chunk; drop chunks that the cache has evicted."""
        self._chunks[fragment.index] = fragment.past
        self.next_index = fragment.index + 1
        self._pictures += fragment.pictures
        self._camera = fragment.camera
        kept = {index for index in fragment.remembered if index in self._chunks} | {fragment.index}
        while len(kept) > self._most:  # the oldest is the sink, the newest the recent window: drop the second oldest
            kept.discard(sorted(kept)[1])
        self._chunks = {index: self._chunks[index] for index in sorted(kept)}

    def past(self) -> Past | None:
        """The value for ``Open.past``; None before the first chunk."""
        if not self.next_index:
            return None
        return Past(
            next_index=self.next_index,
            pictures=self._pictures,
            camera=self._camera,
            chunks=list(self._chunks.values()),
        )

    def resume(self, past: Past) -> None:
        """Start from a stored past, for example a job's."""
        self._chunks = {chunk.index: chunk for chunk in past.chunks}
        self.next_index, self._pictures, self._camera = past.next_index, past.pictures, past.camera

    @property
    def nbytes(self) -> int:
        """Size of the kept latents."""
        return sum(len(chunk.latents) for chunk in self._chunks.values())
