"""Token positions: latent index, row, and column in world coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from model.spec import ModelSpec


def grid_positions(spec: ModelSpec, first_latent: int, frames: int, camera_offsets_px: Tensor | None = None) -> Tensor:
    """Positions (1, frames * rows * columns, 3) float32 of consecutive latent frames, in patch order (t, h, w).

    ``camera_offsets_px`` (frames,) is the camera's offset to the right of the world's origin at each latent frame, in
    pixels. It shifts the columns, so a place keeps its coordinate while the camera pans. Raises ValueError for another
    shape.
    """
    if camera_offsets_px is None:
        camera_offsets_px = torch.zeros(frames)
    if camera_offsets_px.shape != (frames,):
        raise ValueError(f"camera offsets have shape {tuple(camera_offsets_px.shape)}, expected ({frames},)")
    offsets = torch.stack((camera_offsets_px, torch.zeros_like(camera_offsets_px)), -1)
    return world_positions(spec, offsets[None], first_latent)


def world_positions(spec: ModelSpec, offsets_px: Tensor, first_latent: int = 0) -> Tensor:
    """As ``grid_positions``, for B clips with cameras at ``offsets_px`` (B, F, 2), to the right of and below the
    world's origin: (B, F * rows * columns, 3)."""
    batch, frames = offsets_px.shape[:2]
    shape = (batch, frames, spec.token_rows, spec.token_columns)
    device = offsets_px.device
    time = torch.arange(first_latent, first_latent + frames, dtype=torch.float32, device=device).view(1, -1, 1, 1)
    row = torch.arange(shape[2], dtype=torch.float32, device=device).view(1, 1, -1, 1)
    column = torch.arange(shape[3], dtype=torch.float32, device=device)
    right = (offsets_px[..., 0] / spec.pixels_per_column)[..., None, None]
    down = (offsets_px[..., 1] / spec.pixels_per_row)[..., None, None]
    grid = torch.stack((time.expand(shape), (row + down).expand(shape), (column + right).expand(shape)), dim=-1)
    return grid.reshape(batch, -1, 3)
