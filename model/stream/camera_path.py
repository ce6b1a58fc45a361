"""The camera's path through one chunk, as inputs of the transformer and the codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.camera import CameraState, walk
from model.parts import Motion
from model.spec import ModelSpec
from model.transformer.positions import world_positions
from model.words.scenery import View


@dataclass(frozen=True)
class CameraPath:
    """``begins`` are the states at the beginning of the chunk's latent frames, ``end`` is the state after the last."""

    spec: ModelSpec
    begins: tuple[CameraState, ...]
    end: CameraState

    @classmethod
    def of_chunk(cls, spec: ModelSpec, state: CameraState) -> CameraPath:
        """The path of a camera that is in ``state`` when the chunk begins; a model without a camera is at rest."""
        if spec.camera is None:
            return cls(spec, (state,) * spec.chunk_latents, state)
        end, begins = walk(state, spec.chunk_latents, spec.temporal_stride, spec.camera)
        return cls(spec, tuple(begins), end)

    def positions(self, first_latent: int) -> Tensor:
        """(tokens, 3): a latent frame shows what the camera sees at its end."""
        views = [begin.moved(self.spec.temporal_stride) for begin in self.begins]
        places = torch.tensor([[(view.offset, -view.height) for view in views]], dtype=torch.float32)
        return world_positions(self.spec, places, first_latent)[0]

    def chunk_positions(self, chunk: int) -> Tensor:
        """(tokens, 3) of the chunk of that number."""
        return self.positions(chunk * self.spec.chunk_latents)

    def view(self) -> View:
        """What the camera sees on its way, for the words of the chunk."""
        first = self.begins[0]
        return View(first.offset, self.end.offset, self.spec.view_width, first.jumped)

    def control(self) -> Tensor | None:
        """(1, F, control_dim): speed to the right and down, whether positions are world positions, and whether the
        camera jumped here. None for a model without control input."""
        if self.spec.camera is None or not self.spec.control_dim:
            return None
        full = self.spec.camera.full_speed
        numbers = [(begin.speed / full, -begin.rise / full, 1.0, float(begin.jumped)) for begin in self.begins]
        return torch.tensor([numbers])[..., : self.spec.control_dim]

    def motions(self) -> list[Motion | None] | None:
        """The codec's camera motion per latent frame; None for a model without a camera."""
        if self.spec.camera is None:
            return None
        pictures = self.spec.temporal_stride
        return [
            None if begin.jumped else (float(pictures * begin.speed), float(-pictures * begin.rise))
            for begin in self.begins
        ]
