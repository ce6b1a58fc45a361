"""pafu-mini's tiny video autoencoder: every latent frame stands for ``temporal_stride`` pictures.

The encoder is linear: the strongest principal components of 16 x 16 pixels over the pictures of one latent frame,
which needs seconds to fit where a convolutional encoder needed hours on a CPU (docs/log.md). The decoder is learned
and remembers: each of its memory blocks sees its own input of the latent frame before, so pictures join smoothly and
a stream can be decoded chunk by chunk with a small state. All convolutions run at a quarter of the picture's size or
less; pixel shuffle paints the rest: more parameters in less time than a full-resolution convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.spec import ModelSpec

WIDTHS = (128, 96, 64)  # channels at 1/16, 1/8 and 1/4 of the picture's size
BLOCKS = (2, 2, 1)  # memory blocks at each size
SHUFFLE = 4  # pixels of a side that one decoder output position paints
State = list[Tensor]


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch norm, without which these networks learn several times slower."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class MemoryBlock(nn.Module):
    """A residual block that also sees its input of the latent frame before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(2 * channels, channels)
        self.conv2 = conv(channels, channels)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return F.silu(x + self.conv2(F.silu(self.conv1(torch.cat([x, before], 1)))))


class Decoder(nn.Module):
    """Latent frames (B, C, h, w), one after the other, to what the linear picture lacks (B, stride*3, 16h, 16w)."""

    def __init__(self, latent_channels: int, pictures: int) -> None:
        super().__init__()
        deep, middle, shallow = WIDTHS
        self.start = conv(latent_channels, deep)
        self.levels = nn.ModuleList(
            nn.ModuleList(MemoryBlock(width) for _ in range(blocks))
            for width, blocks in zip(WIDTHS, BLOCKS, strict=True)
        )
        self.grow = nn.ModuleList([conv(deep, 4 * middle, 1), conv(middle, 4 * shallow, 1)])
        self.paint = nn.Conv2d(shallow, pictures * 3 * SHUFFLE**2, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        nn.init.zeros_(self.paint.bias)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, new_state = self.start(x), []
        for number, level in enumerate(self.levels):
            if number:
                x = F.pixel_shuffle(self.grow[number - 1](x), 2)
            for block in level:
                before = state[len(new_state)] if state else torch.zeros_like(x)
                new_state.append(x)
                x = block(x, before)
        return F.pixel_shuffle(self.paint(x), SHUFFLE), new_state


class StreamingVAE(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.pictures = spec.temporal_stride
        self.stride = spec.spatial_stride
        values = self.pictures * 3 * self.stride**2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("basis", torch.zeros(values, spec.latent_channels))
        self.register_buffer("scale", torch.ones(spec.latent_channels))
        self.decoder = Decoder(spec.latent_channels, self.pictures)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, T, 3, H, W) in [-1, 1], T a multiple of the temporal stride, to latents (B, F, C, h, w) of about
        unit variance over all channels."""
        batch, time = pictures.shape[:2]
        if time % self.pictures:
            raise ValueError(f"{time} pictures are not a multiple of {self.pictures}")
        blocks = self.blocks(pictures)
        latents = ((blocks - self.mean) @ self.basis) * self.scale
        return latents.unflatten(0, (batch, time // self.pictures)).movedim(-1, 2)

    def blocks(self, pictures: Tensor) -> Tensor:
        """(B, T, 3, H, W) to (B * F, h, w, values of one block)."""
        groups = pictures.flatten(0, 1).unflatten(0, (-1, self.pictures)).flatten(1, 2)
        return F.pixel_unshuffle(groups, self.stride).movedim(1, -1)

    def _linear(self, latents: Tensor) -> Tensor:
        """What the principal components alone paint: (B, C, h, w) to (B, stride*3, H, W)."""
        blocks = (latents.movedim(1, -1) / self.scale) @ self.basis.T + self.mean
        return F.pixel_shuffle(blocks.movedim(-1, 1), self.stride)

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, F, C, h, w) to pictures (B, F*stride, 3, H, W) in [-1, 1] and the state for the next call."""
        state, groups = state or [], []
        for frame in latents.unbind(1):
            detail, state = self.decoder(frame, state)
            groups.append((self._linear(frame) + detail).unflatten(1, (self.pictures, 3)))
        return torch.cat(groups, 1), state


def to_pictures(pictures: Tensor) -> Tensor:
    """(..., T, 3, H, W) in [-1, 1] to uint8 (..., T, H, W, 3)."""
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1)


def from_pictures(pictures: Tensor) -> Tensor:
    """uint8 (..., T, H, W, 3) to float (..., T, 3, H, W) in [-1, 1]."""
    return pictures.movedim(-1, -3).float() / 127.5 - 1
