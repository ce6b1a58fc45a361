"""Few-step flow matching as in Self-Forcing: predict the clean latents, add noise again, repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    draw: Callable[[], Tensor],
    schedule: Sequence[float | tuple[float, float]],
) -> Tensor:
    """Clean latents float32, one call of ``velocity_fn(x_t, timestep)`` per step.

    A step is a timestep, or (timestep, noise level) where a checkpoint's own scheduler rounds them apart. ``draw()`` is
    the noise (B, F, C, h, w) to begin with; before each further step it makes fresh noise for the prediction.
    """
    x_t, x0 = draw().float(), None
    for step in schedule:
        timestep, sigma = step if isinstance(step, tuple) else (step, step / FULL_NOISE)
        if x0 is not None:
            x_t = add_noise(x0, draw(), sigma * FULL_NOISE)
        x0 = clean_from_velocity(x_t, velocity_fn(x_t, timestep), sigma * FULL_NOISE)
    assert x0 is not None
    return x0
