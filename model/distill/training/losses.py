"""Training losses."""

from __future__ import annotations

from torch import Tensor

from model.transformer.sampler import FULL_NOISE


def reconstruction_loss(pictures: Tensor, truth: Tensor) -> Tensor:
    """L1 plus L1 of the differences between neighbouring pixels, which keeps edges in place."""
    loss = (pictures - truth).abs().mean()
    for dim in (-1, -2):
        loss = loss + (pictures.diff(dim=dim) - truth.diff(dim=dim)).abs().mean()
    return loss


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels in (0, 1) shifted towards noise, as in the sampler's schedule."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def frame_errors(velocity: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
    """Squared velocity error per latent frame (B, F) times the noise level s. The error of the clean latents is s times
    the velocity error; without this weight, frames with little noise would dominate."""
    return (velocity - target).square().mean((2, 3, 4)) * timesteps / FULL_NOISE
