"""Scripts: the prompts of a stream and its camera motion, chunk by chunk. The input of every roll-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.camera import MAX_SPEED, view_offset
from model.parts import Motion
from model.spec import ModelSpec
from model.transformer.positions import grid_positions

if TYPE_CHECKING:
    from model.distill.data.world import Clip


@dataclass(frozen=True)
class Script:
    """``prompts``: one per chunk. ``offsets`` (pixels) and ``speeds`` (pixels per picture): one per latent frame, empty
    for a model without a camera."""

    prompts: tuple[str, ...]
    offsets: tuple[int, ...] = ()
    speeds: tuple[int, ...] = ()

    @classmethod
    def of_clip(cls, clip: Clip, spec: ModelSpec) -> Script:
        """The script of a clip."""
        chunks = len(clip.offsets) // spec.chunk_latents
        prompts = tuple(clip.segment_of(chunk).prompt for chunk in range(chunks))
        return cls(prompts, clip.offsets, clip.speeds)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.prompts)

    def views(self, spec: ModelSpec) -> list[int]:
        """Camera offset of every latent frame's view in pixels; 0 without a camera."""
        if not self.offsets:
            return [0] * (self.chunks * spec.chunk_latents)
        return [view_offset(*frame, spec.temporal_stride) for frame in zip(self.offsets, self.speeds, strict=True)]

    def places(self, spec: ModelSpec) -> list[int]:
        """Camera offset of every picture in pixels, for a camera that is at rest in the first latent frame."""
        steps = range(spec.temporal_stride)
        return [
            offset + part * speed for offset, speed in zip(self.offsets, self.speeds, strict=True) for part in steps
        ]

    def positions(self, spec: ModelSpec, first_chunk: int = 0, chunks: int | None = None) -> Tensor:
        """(tokens, 3) of ``chunks`` chunks (None: all remaining)."""
        frames = self._frames(spec, first_chunk, chunks)
        views = torch.tensor(self.views(spec)[frames], dtype=torch.float32)
        return grid_positions(spec, frames.start, len(views), views)[0]

    def control(self, spec: ModelSpec, first_chunk: int = 0, chunks: int | None = None) -> Tensor | None:
        """(frames, 1), or None for a model without control input."""
        if not spec.control_dim:
            return None
        return torch.tensor(self.speeds[self._frames(spec, first_chunk, chunks)])[:, None] / MAX_SPEED

    def motions(self, spec: ModelSpec) -> list[Motion | None] | None:
        """The codec's camera motion per latent frame; None without a camera."""
        return [(float(spec.temporal_stride * speed), 0.0) for speed in self.speeds] if self.speeds else None

    def _frames(self, spec: ModelSpec, first_chunk: int, chunks: int | None) -> slice:
        last = self.chunks if chunks is None else first_chunk + chunks
        return slice(first_chunk * spec.chunk_latents, last * spec.chunk_latents)
