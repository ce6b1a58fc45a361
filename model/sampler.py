"""Few-step flow matching as in Self-Forcing: predict the clean latents, add noise again, repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FULL_NOISE = 1000.0  # timestep of pure noise; sigma = timestep / FULL_NOISE


def _sigma(t: Tensor | float, like: Tensor) -> Tensor | float:
    """Noise level in [0, 1] of timestep ``t``, a number or (B, F), shaped to broadcast over latents ``like``."""
    sigma = t / FULL_NOISE  # a number stays a number: a tensor would have to be copied to the device
    return sigma.view(*sigma.shape, *(1,) * (like.ndim - sigma.ndim)) if isinstance(sigma, Tensor) else sigma


def add_noise(x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """x_t = (1 - s) x0 + s noise for latents (B, F, C, h, w) and a timestep number or (B, F)."""
    sigma = _sigma(t, x0)
    return (1 - sigma) * x0 + sigma * noise


def clean_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """x0 = x_t - s v in float32: the network predicts v = noise - x0."""
    return x_t.float() - _sigma(t, x_t) * velocity.float()


def denoise(
    velocity_fn: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    schedule: Sequence[float | tuple[float, float]],
    generator: torch.Generator,
) -> Tensor:
    """Clean float32 latents from ``noise`` (B, F, C, h, w), with one call of ``velocity_fn(x_t, timestep)`` per step.

    A step is a timestep, or (timestep, noise level) if a checkpoint's scheduler rounds the two differently. Between two
    steps, fresh noise from ``generator`` is added to the prediction.
    """
    steps = [step if isinstance(step, tuple) else (step, step / FULL_NOISE) for step in schedule]
    (timestep, sigma), *rest = steps
    x0 = clean_from_velocity(noise, velocity_fn(noise.float(), timestep), sigma * FULL_NOISE)
    for timestep, sigma in rest:
        fresh = torch.randn(noise.shape, generator=generator, device=generator.device).to(noise.device)
        x_t = add_noise(x0, fresh, sigma * FULL_NOISE)
        x0 = clean_from_velocity(x_t, velocity_fn(x_t, timestep), sigma * FULL_NOISE)
    return x0
