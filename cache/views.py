"""Which latent frames show what the camera will see (the rule of WorldMem, HY-WorldPlay and Matrix-Game 3), and which
show what others show."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_VIEWS = 24  # latent frames that are ranked; further ones are ranked by age
AGEING = 0.2  # penalty of the oldest, relative to a whole view


def worth_of_views(latents: Tensor, left: Tensor, right: Tensor, coming: Tensor) -> Tensor:
    """Pick one latent frame after another, each time the one that shows most of the ``coming`` view that the frames
    before it do not show, minus .2 of its age.

    All (n,), for tokens or for frames, oldest first: the latent frame of each, and the columns at which it begins and
    ends; coming (c,) columns. Returns the worth of each: the first frame picked has MOST_VIEWS, those never picked
    minus their age.
    """
    shows = (left[:, None] <= coming) & (coming <= right[:, None])
    age = (latents[-1] - latents) / latents[-1].clamp(min=1)
    worth, hidden = -age, torch.ones_like(coming, dtype=torch.bool)
    for place in range(MOST_VIEWS):
        gain = (shows & hidden).float().mean(1) - AGEING * age - worth.clamp(min=0)
        best = gain.argmax(0, keepdim=True)  # a tensor, so that the host does not wait for the device
        worth = torch.where(latents == latents.gather(0, best), float(MOST_VIEWS - place), worth)
        hidden = hidden & ~shows.index_select(0, best)[0]
    return worth


def best_in_view(positions: Tensor, coming: Tensor, most: int) -> Tensor:
    """The ``most`` best of the tokens at ``positions`` (n, 3) for a chunk at ``coming`` (c, 3), as indices (k,): whole
    latent frames by ``worth_of_views``, in the last frame those in view first, then the newest. On the host: how many
    frames there are decides about shapes."""
    if not len(positions):
        return torch.zeros(0, dtype=torch.int64)
    times, columns, view = positions[:, 0].round(), positions[:, 2], coming[:, 2]
    latents, frame = times.unique(return_inverse=True)
    left = torch.full_like(latents, torch.inf).scatter_reduce(0, frame, columns, "amin")
    right = torch.full_like(latents, -torch.inf).scatter_reduce(0, frame, columns, "amax")
    worth = worth_of_views(latents, left, right, view)[frame]
    seen = (columns >= view.min()) & (columns <= view.max())
    order = seen.float().argsort(descending=True, stable=True)
    return order[worth[order].argsort(descending=True, stable=True)][:most]


def least_missed(positions: Tensor, most: int) -> Tensor:
    """Which ``most`` of the tokens at ``positions`` (n, 3), oldest first, to forget, as indices (k,): whole latent
    frames, one after another, each time the one whose view those that are left show most, the oldest of equals. On the
    host."""
    if most <= 0 or not len(positions):
        return torch.zeros(0, dtype=torch.int64)
    latents, frame = positions[:, 0].round().unique(return_inverse=True)
    left = torch.full_like(latents, torch.inf).scatter_reduce(0, frame, positions[:, 2], "amin")
    right = torch.full_like(latents, -torch.inf).scatter_reduce(0, frame, positions[:, 2], "amax")
    overlap = torch.minimum(right[:, None], right) - torch.maximum(left[:, None], left) + 1  # tokens, of one row
    shared = overlap.clamp(min=0) / (right - left + 1)[:, None]
    shown, order, count, sizes = shared.sum(1), list[Tensor](), 0, frame.bincount().tolist()
    while count < most and len(order) < len(latents):
        least = int(shown.argmax())
        order.append((frame == least).nonzero()[:, 0])
        count += sizes[least]
        shown = shown - shared[:, least]
        shown[least] = -torch.inf
    return torch.cat(order)[:most]
