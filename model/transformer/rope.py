"""Three-axis rotary position embedding in Wan's layout: interleaved pairs, channels split over (time, height, width).

Positions are data: any real number per token and axis. A panned camera or a pruned cache is therefore no special case.
Angles are computed once per pass (``angles``) and applied in every layer (``apply``).
"""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
OFFSETS = 8  # later positions: 1, 2, 4 .. 128


def axis_angles(positions: Tensor, channels: int, theta: float) -> Tensor:
    """Angles of one axis in radians: positions (...) -> (..., channels / 2).

    The product is computed in float64, so that a late position in a long stream keeps its phase at the fastest
    frequency.
    """
    exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
    turns = positions.to(torch.float64).unsqueeze(-1) * torch.pow(theta, -exponents) / (2 * torch.pi)
    return ((turns - turns.round()) * (2 * torch.pi)).float()


def angles(positions: Tensor, split: tuple[int, int, int], theta: float) -> Rotation:
    """(cos, sin) for positions (B|1, S, 3): two float32 tensors (B|1, S, 1, head_dim / 2)."""
    per_axis = [axis_angles(positions[..., axis], channels, theta) for axis, channels in enumerate(split)]
    phase = torch.cat(per_axis, dim=-1).unsqueeze(2)
    return phase.cos(), phase.sin()


def without_time(positions: Tensor) -> Tensor:
    """Positions (..., 3) with time 0, for the rotation by row and column in which the cache stores keys."""
    return positions * positions.new_tensor((0, 1, 1))


def apply(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each channel pair of x (B, S, H, D) in float32; the result has x's dtype."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2).to(x.dtype)


def apply_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``apply`` without complex numbers: more steps when run eagerly, one kernel when compiled."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), -1)
    return turned.flatten(-2).to(x.dtype)


def unrotate_place(keys: Tensor, positions: Tensor, split: tuple[int, int, int], theta: float) -> Tensor:
    """Keys (B, S, H, D) before their rotation by the row and column of ``positions`` (B|1, S, 3): the salience head's
    input."""
    cos, sin = angles(without_time(positions), split, theta)
    return apply(keys, cos, -sin)


def rotate_time(x: Tensor, times: Tensor, split: tuple[int, int, int], theta: float) -> Tensor:
    """Rotate x (B, S, H, D), already rotated by row and column, by its times (B, S): changes only time's channels."""
    channels = split[0]
    phase = axis_angles(times, channels, theta).unsqueeze(2)
    return torch.cat((apply(x[..., :channels], phase.cos(), phase.sin()), x[..., channels:]), -1)


def rotate(x: Tensor, positions: Tensor, split: tuple[int, int, int], theta: float) -> Tensor:
    """``angles`` and ``apply`` in one call: x (B, S, H, D), positions (B|1, S, 3)."""
    return apply(x, *angles(positions, split, theta))


def time_pairs(x: Tensor, split: tuple[int, int, int]) -> Tensor:
    """The channels of x (..., D) that time rotates, as complex numbers (..., F)."""
    return torch.view_as_complex(x[..., : split[0]].float().unflatten(-1, (-1, 2)).contiguous())


def later(rotation: Rotation, split: tuple[int, int, int], theta: float) -> Rotation:
    """By time only, as complex numbers: the rotation (F,) of the newest token, and the further ones
    (offsets, F) of positions 1, 2, 4 .. 128 later."""
    cos, sin = (each[0, -1, 0, : split[0] // 2].float() for each in rotation)
    offsets = 2 ** torch.arange(OFFSETS, device=cos.device)
    turns = axis_angles(offsets, split[0], theta)
    return torch.complex(cos, sin), torch.polar(torch.ones_like(turns), turns)
