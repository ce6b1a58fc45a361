"""pafu-mini's tiny video autoencoder: a latent frame is one view; the pictures between two views are interpolated.

A latent frame describes what the camera sees at the end of its ``temporal_stride`` pictures. The encoder is linear: the
principal components of 16 x 16 pixel blocks. They take seconds to fit, where a convolutional encoder would have taken
hours on a CPU (docs/log.md). The decoder is a small convolutional network; summing the components instead would show 16
x 16 blocks. The camera's speed is known, so the pictures between two views are motion compensated: both views are
shifted to the camera's position and blended. Latents therefore do not depend on speed, which a small model learns much
faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.codec.decoder import Decoder
from model.parts import Motion, State
from model.spec import ModelSpec

# by detail: channels and residual blocks at the latents' size, twice that and so on, up to 1/4 of the picture's size
LAYERS = {1: ((160, 96, 64), (2, 1, 1)), 2: ((160, 96, 64, 40), (2, 1, 2, 1))}
LEAST_WEIGHT = 1e-3  # lower limit of a view's weight in columns that only it shows


class StreamingVAE(nn.Module):
    """The autoencoder, with a codec's interface (model.parts.VideoCodec)."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    encodes = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.pictures = spec.temporal_stride
        self.detail = spec.detail
        self.stride = spec.spatial_stride // spec.detail
        values = 3 * self.stride**2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.zeros(values, spec.latent_channels))
        self.register_buffer("scale", torch.ones(spec.latent_channels))
        self.decoder = Decoder(spec.latent_channels, *LAYERS[spec.detail], channels=3, flat=self.detail > 1)

    def settle(self, device: torch.device, dtype: torch.dtype) -> StreamingVAE:
        """Use the channels-last layout: convolutions are a quarter faster, on CPUs and GPUs."""
        self.to(device, dtype)
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # missing in torch's types

    def encode_start(self, picture: Tensor, frames: int) -> Tensor:
        """The view (3, H, W) of a camera at rest for ``frames`` latent frames: (1, frames, C, h, w)."""
        latents = self.encode(picture[None].to(self.basis.dtype)).float()
        return latents.unsqueeze(1).repeat(1, frames, 1, 1, 1)

    def encode(self, views: Tensor) -> Tensor:
        """Views (..., 3, H, W) in [-1, 1] to latents (..., C, h, w) of about unit variance over all channels.

        Latents do not tell the detail: larger views are averaged to one pixel per camera pixel.
        """
        if self.detail > 1:
            views = F.avg_pool2d(views.flatten(0, -3), self.detail).unflatten(0, views.shape[:-2])
        return (((self.blocks(views) - self.mean) @ self.basis) * self.scale).movedim(-1, -3)

    def blocks(self, views: Tensor) -> Tensor:
        """(..., 3, H, W) to (..., h, w, values of one block)."""
        return F.pixel_unshuffle(views, self.stride).movedim(-3, -1)

    def view(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to their views (B, 3, H, W) in about [-1, 1]."""
        out: Tensor = self.decoder(latents)
        return out

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """Latents (B, F, C, h, w) to pictures (B, F*stride, 3, H, W) and the state for the next call.

        ``motions`` holds the camera's motion since the previous latent frame; only the motion to the right is used.
        After a jump, and without motions, one view fades into the next.
        """
        before = state[0] if state else None
        pictures = []
        views = self.view(latents.flatten(0, 1)).contiguous().unflatten(0, latents.shape[:2])
        for index, now in enumerate(views.unbind(1)):
            motion = motions[index] if motions is not None else None
            speed = self.detail * round(motion[0] / self.pictures) if motion else 0
            pictures += [between(before, now, speed, part, self.pictures) for part in range(self.pictures)]
            before = now
        return torch.stack(pictures, 1), [now.clone()]


def between(before: Tensor | None, now: Tensor, speed: int, part: int, parts: int) -> Tensor:
    """Picture ``part`` of ``parts`` on the way from view ``before`` to view ``now``, each (B, 3, H, W).

    The camera moves ``speed`` pixels per picture to the right, so ``before`` shows the columns at the left and ``now``
    those at the right. Without ``before``, the camera stays at ``now``: nothing shows what lies beyond it.
    """
    if before is None:
        return now
    to_now, now_known = _moved(now, (part - parts) * speed)
    to_before, before_known = _moved(before, part * speed)
    weight_now = max(part / parts, LEAST_WEIGHT) * now_known
    weight_before = (1 - part / parts) * before_known
    return torch.lerp(to_before, to_now, weight_now / (weight_now + weight_before))


def _moved(view: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """The view shifted to a camera ``shift`` pixels farther to the right, and which of its columns (W,) are visible."""
    width = view.shape[-1]
    columns = torch.arange(width, device=view.device) + shift
    known = ((columns >= 0) & (columns < width)).to(view.dtype)
    step = max(1 - width, min(width - 1, shift))
    inside = view[..., max(step, 0) : width + min(step, 0)]
    return F.pad(inside, (max(-step, 0), max(step, 0), 0, 0), mode="replicate") if step else view, known


def to_pictures(pictures: Tensor) -> Tensor:
    """(..., T, 3, H, W) in [-1, 1] to uint8 (..., T, H, W, 3)."""
    shown = pictures.to(torch.float32, copy=True)  # what follows is in place: fresh memory costs more than arithmetic
    return shown.add_(1).mul_(127.5).add_(0.5).clamp_(0, 255).to(torch.uint8).movedim(-3, -1)


def from_pictures(pictures: Tensor) -> Tensor:
    """uint8 (..., T, H, W, 3) to float (..., T, 3, H, W) in [-1, 1]."""
    return pictures.movedim(-1, -3).float() / 127.5 - 1
