"""Promise: larger pictures have sharp borders where flat colors meet, and a palette starts with nothing."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from model.codec.decoder import COLORS, SHUFFLE, Decoder, Palette

LATENTS, WIDTHS, BLOCKS = 4, (8, 6), (1, 1)


def test_a_fresh_palette_changes_nothing() -> None:
    plain, flat = Decoder(LATENTS, WIDTHS, BLOCKS, 3), Decoder(LATENTS, WIDTHS, BLOCKS, 3, flat=True)
    flat.load_state_dict(flat.state_dict() | plain.state_dict())
    latents = torch.randn(2, LATENTS, 3, 5)
    assert torch.equal(flat(latents), plain(latents)) and flat(latents).shape == (2, 3, 3 * 8, 5 * 8)


def test_two_colors_meet_within_one_pixel_wherever_their_logits_cross() -> None:
    """One feature says how far a border is from each position's left edge; left of it is black, right of it white."""
    palette = Palette(1, 3)
    for parameter in palette.parameters():
        parameter.data.zero_()
    column = torch.arange(SHUFFLE).repeat(SHUFFLE).float()
    palette.mixture.weight.data[: SHUFFLE**2, 0, 1, 1] = -40.0
    palette.mixture.bias.data[: SHUFFLE**2] = 40 * (column + 0.5)
    palette.mixture.bias.data[2 * SHUFFLE**2 :] = -1e4  # the other colors are not used
    palette.colors.bias.data.view(COLORS, 3)[0] = 1.0
    for border in range(SHUFFLE + 1):
        picture = F.pixel_shuffle(palette(torch.full((1, 1, 2, 1), float(border))), SHUFFLE)[0, 0]
        assert picture.round(decimals=3).tolist() == [[0.0] * border + [1.0] * (SHUFFLE - border)] * (2 * SHUFFLE)
