"""Interpolates pictures between two views of a world of flat planes: planes slide with the camera, near ones cover far
ones.

A plane with parallax p moves p pixels per pixel of camera motion. Both views are cut into planes, and each cut-out is
shifted to the camera's position. A pixel shows the nearest plane that either view has there. Areas that become visible
come from the view that shows them, and near edges stay sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PLANES = (0.0, 0.12, 0.22, 0.45, 0.70, 1.0, 1.5)  # parallaxes, far to near


@dataclass(frozen=True)
class View:
    """picture (3, H, W); plane (H, W) uint8, index into PLANES."""

    picture: Tensor
    plane: Tensor


def nearest_plane(parallax: Tensor) -> Tensor:
    """Index of the plane whose parallax is closest, uint8, for parallaxes of any shape."""
    middles = [(a + b) / 2 for a, b in zip(PLANES, PLANES[1:], strict=False)]
    return torch.bucketize(parallax.float().contiguous(), torch.tensor(middles, device=parallax.device)).to(torch.uint8)


def between(before: View, now: View, motion: tuple[float, float], share: float) -> Tensor:
    """The picture (3, H, W) at ``share`` of the way from ``before`` to ``now``; the camera moves ``motion`` (right,
    down) pixels over the whole way."""
    sources = (_Source(before, motion, share, share), _Source(now, motion, share - 1, 1 - share))
    shape, device = now.plane.shape, now.plane.device
    open_pixels = torch.ones(shape, dtype=torch.bool, device=device)
    index = [torch.arange(shape.numel(), device=device).view(shape) for _ in sources]
    known = [torch.zeros(shape, dtype=torch.bool, device=device) for _ in sources]
    for plane in reversed(range(len(PLANES))):
        claims = [source.claims(plane) for source in sources]
        taken = (claims[0] | claims[1]) & open_pixels
        for i, source in enumerate(sources):
            mine = claims[i] & taken
            known[i] |= mine
            index[i] = torch.where(mine, index[i] + source.step(plane), index[i])
        open_pixels &= ~taken
    if bool(open_pixels.any()):  # visible in neither view: take the nearer view's content at the same place
        known[0 if share < 0.5 else 1] |= open_pixels
    weights = [k * (1 - source.distance) for k, source in zip(known, sources, strict=True)]
    pictures = [
        source.view.picture.flatten(1)[:, i.flatten()].view(3, *shape) for i, source in zip(index, sources, strict=True)
    ]
    return (pictures[0] * weights[0] + pictures[1] * weights[1]) / (weights[0] + weights[1])


class _Source:
    """A view as seen from a camera that has moved ``share`` of ``motion``; ``distance`` ranges from 0 (here) to 1."""

    def __init__(self, view: View, motion: tuple[float, float], share: float, distance: float) -> None:
        self.view, self.distance = view, distance
        self._shifts = [(round(p * motion[0] * share), round(p * motion[1] * share)) for p in PLANES]

    def step(self, plane: int) -> int:
        """The step, in flat pixels, from a pixel to the one that shows the same point of ``plane`` in the view."""
        x, y = self._shifts[plane]
        return y * self.view.plane.shape[1] + x

    def claims(self, plane: int) -> Tensor:
        """(H, W) bool: pixels where the view shows ``plane``."""
        here = self.view.plane == plane
        x, y = self._shifts[plane]
        height, width = here.shape
        out = torch.zeros_like(here)
        if abs(x) < width and abs(y) < height:
            rows, columns = slice(max(0, -y), height - max(0, y)), slice(max(0, -x), width - max(0, x))
            out[rows, columns] = here[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
        return out
