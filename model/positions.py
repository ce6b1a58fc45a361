"""Where tokens stand: latent index, row, and column in world coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from model.spec import ModelSpec


def grid_positions(spec: ModelSpec, first_latent: int, frames: int, camera_offsets_px: Tensor | None = None) -> Tensor:
    """Positions (1, frames * rows * columns, 3) float32 of consecutive latent frames, in patch order (t, h, w).

    ``camera_offsets_px`` (frames,) is how far the camera stands to the right of the world's origin at each latent
    frame, in pixels: it moves the columns, so that a place keeps its coordinate while the camera pans.
    """
    if camera_offsets_px is None:
        camera_offsets_px = torch.zeros(frames)
    if camera_offsets_px.shape != (frames,):
        raise ValueError(f"camera offsets have shape {tuple(camera_offsets_px.shape)}, expected ({frames},)")
    shape = (frames, spec.token_rows, spec.token_columns)
    device = camera_offsets_px.device
    time = torch.arange(first_latent, first_latent + frames, dtype=torch.float32, device=device).view(-1, 1, 1)
    row = torch.arange(shape[1], dtype=torch.float32, device=device).view(1, -1, 1)
    column = torch.arange(shape[2], dtype=torch.float32, device=device).view(1, 1, -1)
    offset = (camera_offsets_px / spec.pixels_per_column).view(-1, 1, 1)
    grid = torch.stack((time.expand(shape), row.expand(shape), (column + offset).expand(shape)), dim=-1)
    return grid.reshape(1, -1, 3)
