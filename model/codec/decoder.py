"""The convolutional decoder of the view autoencoders. Its pictures have no block borders: it has no norms, and no layer
that paints each block on its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

SHUFFLE = 4  # side of the pixel block that one position at 1/4 of the picture's size produces
COLORS, STEEPNESS = 4, 4.0  # colors of such a block; factor of the logits by which its pixels mix them


class ResidualBlock(nn.Module):
    """A residual block that starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x))))
        return out


class Palette(nn.Module):
    """Adds flat colors with sharp borders: features (B, width, h, w) to a block of SHUFFLE x SHUFFLE pixels at each
    position, (B, channels * SHUFFLE**2, h, w).

    A position has COLORS colors, and each of its pixels is a mixture of them. A border is sharp as soon as the
    mixture's logits are steep; plain convolutions learn that only slowly. It starts with nothing.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.mixture = nn.Conv2d(width, COLORS * SHUFFLE**2, 3, padding=1)
        self.colors = nn.Conv2d(width, COLORS * channels, 3, padding=1)
        nn.init.zeros_(self.colors.weight)
        nn.init.zeros_(cast(Tensor, self.colors.bias))

    def forward(self, x: Tensor) -> Tensor:
        mixture = (STEEPNESS * self.mixture(x)).unflatten(1, (COLORS, 1, -1)).softmax(1)
        colors = self.colors(x).unflatten(1, (COLORS, -1, 1))
        out: Tensor = (mixture * colors).sum(1).flatten(1, 2)
        return out


def level(width: int, blocks: int) -> nn.Sequential:
    """One resolution: a convolution and ``blocks`` residual blocks."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))


class Decoder(nn.Module):
    """Latents (B, C, h, w) to ``channels`` values per pixel (B, channels, s * h, s * w).

    ``widths`` and ``blocks`` are the channels and residual blocks at the latents' size, twice that and so on; the last
    one is a quarter of the picture's size: with three of them, s is 16. ``flat``: whether a palette adds flat colors
    with sharp borders.
    """

    def __init__(
        self, latent_channels: int, widths: Sequence[int], blocks: Sequence[int], channels: int, flat: bool = False
    ) -> None:
        super().__init__()
        self.start = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(level(width, count) for width, count in zip(widths, blocks, strict=True))
        self.grow = nn.ModuleList(nn.Conv2d(deep, 4 * shallow, 1) for deep, shallow in pairwise(widths))
        self.paint = nn.Conv2d(widths[-1], channels * SHUFFLE**2, 3, padding=1)
        self.palette = Palette(widths[-1], channels) if flat else None

    def forward(self, latents: Tensor) -> Tensor:
        x = self.levels[0](self.start(latents))
        for grow, blocks in zip(self.grow, self.levels[1:], strict=True):
            x = blocks(F.pixel_shuffle(grow(x), 2))
        x = F.silu(x)
        painted = self.paint(x) if self.palette is None else self.paint(x) + self.palette(x)
        return F.pixel_shuffle(painted, SHUFFLE)
