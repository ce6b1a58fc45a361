"""The autoencoder of pafu-mini 2. A latent frame is one view; it decodes to a picture and to the parallax of its
pixels.

Running statistics keep the latents at unit variance. The decoder's fourth channel is each pixel's parallax. With it,
the pictures between two views are made by sliding the planes of both views (``model.codec.planes``). Latents
therefore do not depend on speed, which a small model learns much faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.codec.decoder import SHUFFLE, Decoder, level
from model.codec.planes import PLANES, View, between, nearest_plane
from model.parts import Motion, State
from model.spec import ModelSpec

ENCODER_WIDTHS = (64, 128, 256)  # channels at 1/4, 1/8 and 1/16 of the picture's size
DECODER_WIDTHS = (192, 112, 64)  # at 1/16, 1/8 and 1/4; two cores without bf16 decode three views in 0.1 s
BLOCKS = (2, 2, 1)  # residual blocks at 1/16, 1/8 and 1/4
VIEW_CHANNELS = 4  # red, green, blue, parallax
MOMENTUM = 0.01  # momentum of the latents' running statistics


class Encoder(nn.Module):
    """Views (B, 3, 16h, 16w) in [-1, 1] to latents (B, C, h, w)."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        shallow, middle, deep = ENCODER_WIDTHS
        self.start = nn.Conv2d(3 * SHUFFLE**2, shallow, 3, padding=1)
        self.levels = nn.ModuleList(
            level(width, blocks) for width, blocks in zip(ENCODER_WIDTHS, reversed(BLOCKS), strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in ((shallow, middle), (middle, deep))
        )
        self.end = nn.Conv2d(deep, latent_channels, 3, padding=1)

    def forward(self, views: Tensor) -> Tensor:
        x = self.levels[0](self.start(F.pixel_unshuffle(views, SHUFFLE)))
        for shrink, blocks in zip(self.shrink, self.levels[1:], strict=True):
            x = blocks(shrink(x))
        out: Tensor = self.end(F.silu(x))
        return out


class ViewAutoencoder(nn.Module):
    """Encoder, decoder and latent statistics of pafu-mini 2."""

    mean: Tensor
    scale: Tensor

    encodes = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.pictures = spec.temporal_stride
        self.encoder = Encoder(spec.latent_channels)
        self.decoder = Decoder(spec.latent_channels, DECODER_WIDTHS, BLOCKS, VIEW_CHANNELS)
        self.register_buffer("mean", torch.zeros(spec.latent_channels, 1, 1))
        self.register_buffer("scale", torch.ones(spec.latent_channels, 1, 1))

    def encode(self, views: Tensor) -> Tensor:
        """Views (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) with zero mean and unit variance per channel."""
        out: Tensor = (self.encoder(views) - self.mean) / self.scale
        return out

    def encode_in_training(self, views: Tensor) -> Tensor:
        """As ``encode``, with the batch's own statistics; it also updates the running statistics."""
        raw = self.encoder(views).float()
        mean, scale = raw.mean((0, 2, 3)), raw.std((0, 2, 3)) + 1e-4
        with torch.no_grad():
            self.mean.lerp_(mean.view_as(self.mean), MOMENTUM)
            self.scale.lerp_(scale.view_as(self.scale), MOMENTUM)
        normal: Tensor = (raw - mean[:, None, None]) / scale[:, None, None]
        return normal

    def view(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) to pictures (B, 3, H, W) in about [-1, 1] and the parallax of their pixels (B, H, W)."""
        out = self.decoder(latents)
        return out[:, :3], out[:, 3]

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """Latents (1, F, C, h, w) to pictures (1, F * stride, 3, H, W) and the state for the next call.

        ``motions`` holds, per latent frame, the camera's (right, down) pixels since the previous view, or None where
        the camera jumped. Without ``motions`` the camera rests.
        """
        drawn, parallax = self.view(latents[0])
        views = [View(picture, plane) for picture, plane in zip(drawn, nearest_plane(parallax), strict=True)]
        before = View(state[0], state[1]) if state else None
        pictures: list[Tensor] = []
        for index, now in enumerate(views):
            motion = (0.0, 0.0) if motions is None else motions[index]
            pictures += self._on_the_way(before, now, motion)
            before = now
        return torch.stack(pictures)[None], [views[-1].picture, views[-1].plane]

    def _on_the_way(self, before: View | None, now: View, motion: Motion | None) -> list[Tensor]:
        """The pictures of one latent frame; the last one is the view itself. At the start and after a jump, all
        pictures show the view."""
        if before is None or motion is None:
            return [now.picture] * self.pictures
        shares = [part / self.pictures for part in range(1, self.pictures)]
        return [*(between(before, now, motion, share) for share in shares), now.picture]


assert max(PLANES) < 2.55, "the training pool stores parallaxes as hundredths in one byte"
