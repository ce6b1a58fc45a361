"""A tiny autoencoder for Wan's latents in TAEHV's public file layout (taew2_1): much faster, slightly softer.

Memory blocks also see the previous frame. At the start there is none, so the first pictures are dropped: the first
latent frame makes one picture, as in Wan's VAE. Source: TAEHV by Ollin Boer Bohan, MIT license.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.parts import Motion, NoEncoder, State
from model.spec import ModelSpec

WIDTHS = (256, 128, 64, 64)
GROWS = (1, 2, 2)  # factors in time at each doubling in space
POOLS = (2, 2, 1)
SOFT_LIMIT = 3.0


class TinyVAE(nn.Module):
    """The autoencoder, with a codec's interface (model.parts.VideoCodec)."""

    def __init__(self, spec: ModelSpec, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.first_pictures = spec.first_latent_pictures
        self.decoder = nn.Sequential(*_decoder(spec.latent_channels, widths))
        self.encoder: nn.Sequential | None = nn.Sequential(*_encoder(spec.latent_channels, widths[-1]))
        # Some files have rows for two pictures where this model makes one: the last rows are used.
        self.may_shrink = tuple(
            f"decoder.{place}.conv.weight" for place, block in enumerate(self.decoder) if isinstance(block, Grow)
        )

    @property
    def encodes(self) -> bool:
        """See VideoCodec."""
        return self.encoder is not None

    def leave_out_encoder(self) -> None:
        """For files that hold the decoder alone."""
        self.encoder = None

    def decode(
        self, latents: Tensor, state: State | None = None, motions: Sequence[Motion | None] | None = None
    ) -> tuple[Tensor, State]:
        """See VideoCodec."""
        x, after = _run(self.decoder, latents[0], state)
        pictures = x.clamp(0, 1) * 2 - 1
        made_from_nothing = _stretch(self.decoder) - self.first_pictures
        return pictures[None, made_from_nothing if state is None else 0 :], after

    def encode_start(self, picture: Tensor, frames: int) -> Tensor:
        """See VideoCodec. Raises NoEncoder for a file with the decoder alone."""
        if self.encoder is None:
            raise NoEncoder
        dtype = next(self.encoder.parameters()).dtype
        still = ((picture + 1) / 2).to(dtype).expand(frames * _shrink(self.encoder), -1, -1, -1)
        return _run(self.encoder, still, None)[0][None].float()


class Memory(nn.Module):
    """A residual block that also sees the previous frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x (T, C, h, w); before (1, C, h, w), the frame before x."""
        past = torch.cat((before, x[:-1]))
        return F.relu(self.conv(torch.cat((x, past), 1)) + x)


class Grow(nn.Module):
    """Turns every frame into ``times`` frames."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels, channels * times, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wider: Tensor = self.conv(x)
        return wider.reshape(-1, *x.shape[1:])


class Pool(nn.Module):
    """Merges ``times`` frames into one."""

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels * times, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        narrower: Tensor = self.conv(x.reshape(-1, self.times * x.shape[1], *x.shape[2:]))
        return narrower


class SoftLimit(nn.Module):
    """Limits values smoothly, as TAEHV does before decoding."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / SOFT_LIMIT) * SOFT_LIMIT


def _conv(inputs: int, outputs: int, **options: int | bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)  # type: ignore[arg-type]


def _decoder(latent_channels: int, widths: tuple[int, ...]) -> Iterable[nn.Module]:
    yield from (SoftLimit(), _conv(latent_channels, widths[0]), nn.ReLU())
    for width, following, grow in zip(widths, widths[1:], GROWS, strict=False):
        yield from (Memory(width), Memory(width), Memory(width), nn.Upsample(scale_factor=2))
        yield from (Grow(width, grow), _conv(width, following, bias=False))
    yield from (nn.ReLU(), _conv(widths[-1], 3))


def _encoder(latent_channels: int, width: int) -> Iterable[nn.Module]:
    yield from (_conv(3, width), nn.ReLU())
    for pool in POOLS:
        yield from (Pool(width, pool), _conv(width, width, stride=2, bias=False))
        yield from (Memory(width), Memory(width), Memory(width))
    yield _conv(width, latent_channels)


def _run(blocks: nn.Sequential, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """x (T, C, h, w) through all blocks; also returns the last frame that each memory block has seen."""
    held, after = iter(state or ()), []
    for block in blocks:
        if isinstance(block, Memory):
            before = next(held, None)
            after.append(x[-1:].clone())
            x = block(x, torch.zeros_like(x[:1]) if before is None else before)
        else:
            x = block(x)
    return x, after


def _stretch(blocks: nn.Sequential) -> int:
    """Pictures per latent frame."""
    times = 1
    for block in blocks:
        times *= block.times if isinstance(block, Grow) else 1
    return times


def _shrink(blocks: nn.Sequential) -> int:
    times = 1
    for block in blocks:
        times *= block.times if isinstance(block, Pool) else 1
    return times
