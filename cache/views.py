"""Which latent frames show what the camera will see (the rule of WorldMem, HY-WorldPlay and Matrix-Game 3), and which
show what others show."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_VIEWS = 24  # latent frames that are ranked; further ones are ranked by age
AGEING = 0.2  # penalty of the oldest, relative to a whole view
HALF_A_COLUMN = 0.5
AGAIN = 0.5  # a second clear view of a place is better than fog before it
NOTHING = 0.01  # of what stands out most: less is not seen


def worth_of_views(latents: Tensor, shows: Tensor, again: float = 0.0) -> Tensor:
    """Pick one latent frame after another, each time the one that shows most of the coming view that the frames before
    it do not show, minus .2 of its age. What they show already counts ``again`` times.

    For tokens or for frames, oldest first: latents (n,), the latent frame of each; shows (n, c), how clearly each shows
    the c columns of the coming view, 0 to 1. Returns the worth of each (n,): the first frame picked has MOST_VIEWS,
    those never picked minus their age.
    """
    age = (latents[-1] - latents) / latents[-1].clamp(min=1)
    worth, hidden = -age, torch.ones_like(shows[0])
    for place in range(MOST_VIEWS):
        gain = (shows * hidden.clamp(min=again)).mean(1) - AGEING * age - worth.clamp(min=0)
        best = gain.argmax(0, keepdim=True)  # a tensor, so that the host does not wait for the device
        worth = torch.where(latents == latents.gather(0, best), float(MOST_VIEWS - place), worth)
        hidden = hidden * (1 - shows.index_select(0, best)[0])
    return worth


def covering(left: Tensor, right: Tensor, coming: Tensor) -> Tensor:
    """(n, c): 1 where a view from column ``left`` to ``right``, (n,) each, shows a column of ``coming`` (c,)."""
    return ((left[:, None] <= coming) & (coming <= right[:, None])).float()


def rows_of_frames(positions: Tensor) -> Tensor:
    """(n,): a number for the latent frame and the row of each token at ``positions`` (n, 3)."""
    frame, height = positions[:, 0].round(), positions[:, 1].round()
    return frame * (height.max() + 1) + height


def standing_out(rows: Tensor, values: Tensor) -> Tensor:
    """(n,): the squared distance of each token's value (n, D) from the mean of its row (n,), see ``rows_of_frames``.
    Fog and plain sky have little of it."""
    _, row = rows.unique(return_inverse=True)
    sums = values.new_zeros(int(row.max()) + 1, values.shape[1]).index_add_(0, row, values)
    away: Tensor = values - (sums / row.bincount()[:, None])[row]
    return away.square().sum(1)


def best_in_view(positions: Tensor, coming: Tensor, most: int, standing: Tensor | None = None) -> Tensor:
    """The ``most`` best of the tokens at ``positions`` (n, 3) for a chunk at ``coming`` (c, 3), as indices (k,): whole
    latent frames by ``worth_of_views``, in the last frame those in view first, then the newest. With ``standing`` (n,),
    a frame shows a column as clearly as its token that stands out most there does, relative to the best of all frames.
    On the host: how many frames there are decides about shapes."""
    if not len(positions):
        return torch.zeros(0, dtype=torch.int64)
    times, columns, view = positions[:, 0].round(), positions[:, 2], coming[:, 2]
    latents, frame = times.unique(return_inverse=True)
    left, right = _edges(frame, columns, len(latents))
    shows = covering(left, right, view)
    if standing is not None:
        near = ((columns[:, None] - view).abs() <= HALF_A_COLUMN) * standing[:, None]
        clear = torch.zeros_like(shows).scatter_reduce(0, frame[:, None].expand_as(near), near, "amax")
        shows = shows * _against(clear, clear.amax(0))
    worth = worth_of_views(latents, shows, 0.0 if standing is None else AGAIN)[frame]
    seen = (columns >= view.min()) & (columns <= view.max())
    order = seen.float().argsort(descending=True, stable=True)
    return order[worth[order].argsort(descending=True, stable=True)][:most]


def least_missed(positions: Tensor, most: int, standing: Tensor | None = None) -> Tensor:
    """Which ``most`` of the tokens at ``positions`` (n, 3), oldest first, to forget, as indices (k,): whole latent
    frames, one after another, each time the one whose view those that are left show most, the oldest of equals. With
    ``standing`` (n,), a frame counts for another one as far as its tokens stand out as much. On the host."""
    if most <= 0 or not len(positions):
        return torch.zeros(0, dtype=torch.int64)
    latents, frame = positions[:, 0].round().unique(return_inverse=True)
    left, right = _edges(frame, positions[:, 2], len(latents))
    overlap = torch.minimum(right[:, None], right) - torch.maximum(left[:, None], left) + 1  # tokens, of one row
    shared = overlap.clamp(min=0) / (right - left + 1)[:, None]
    if standing is not None:
        clear = torch.zeros_like(left).index_add_(0, frame, standing) / frame.bincount()
        shared = shared * _against(clear, clear[:, None])
    shown, order, count, sizes = shared.sum(1), list[Tensor](), 0, frame.bincount().tolist()
    while count < most and len(order) < len(latents):
        least = int(shown.argmax())
        order.append((frame == least).nonzero()[:, 0])
        count += sizes[least]
        shown = shown - shared[:, least]
        shown[least] = -torch.inf
    return torch.cat(order)[:most]


def _against(clear: Tensor, other: Tensor) -> Tensor:
    """How far what is as ``clear`` stands for what is as clear as ``other``, 0 to 1. Where neither shows anything, it
    does wholly."""
    nothing = NOTHING * clear.max() + torch.finfo(clear.dtype).tiny
    return ((clear + nothing) / (other + nothing)).clamp(max=1)


def _edges(frame: Tensor, columns: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The first and the last column (frames,) of each latent frame, of tokens in ``frame`` (n,) at ``columns`` (n,)."""
    left = torch.full((frames,), torch.inf).scatter_reduce(0, frame, columns, "amin")
    right = torch.full((frames,), -torch.inf).scatter_reduce(0, frame, columns, "amax")
    return left, right
