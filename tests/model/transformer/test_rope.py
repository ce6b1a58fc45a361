"""Promise: rotary positions have Wan's layout, take any real position, and are relative."""

from __future__ import annotations

import pytest
import torch

from model.spec import PAFU_MINI, WAN_1_3B
from model.transformer import rope
from model.transformer.positions import grid_positions

SPLIT, THETA = (8, 6, 6), 10000.0


def naive_rotation(vector: list[float], position: list[float]) -> list[float]:
    """One head of one token, pair by pair, in Python."""
    import cmath

    out, start = [], 0
    for axis, channels in enumerate(SPLIT):
        for pair in range(channels // 2):
            place = start + 2 * pair
            angle = position[axis] * THETA ** (-2 * pair / channels)
            turned = complex(vector[place], vector[place + 1]) * cmath.exp(1j * angle)
            out += [turned.real, turned.imag]
        start += channels
    return out


def test_each_channel_pair_turns_by_its_own_axis_and_frequency() -> None:
    torch.manual_seed(0)
    x, positions = torch.randn(2, 5, 3, sum(SPLIT)), torch.randn(2, 5, 3) * 30
    turned = rope.rotate(x, positions, SPLIT, THETA)
    for batch, token, head in ((0, 0, 0), (1, 4, 2), (0, 3, 1)):
        expected = naive_rotation(x[batch, token, head].tolist(), positions[batch, token].tolist())
        torch.testing.assert_close(turned[batch, token, head], torch.tensor(expected), atol=1e-5, rtol=0)


def test_products_depend_on_relative_position_alone_even_far_from_the_origin() -> None:
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, sum(SPLIT))
    here, there = torch.tensor([3.0, 2.0, 5.25]), torch.tensor([1.0, 4.0, 2.5])
    far = torch.tensor([100_000.0, 0.0, 65_536.0])

    def product(shift: torch.Tensor) -> torch.Tensor:
        turned = [rope.rotate(x, (p + shift).view(1, 1, 3), SPLIT, THETA) for x, p in ((q, here), (k, there))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(far), product(torch.zeros(3)), atol=1e-4, rtol=0)


def test_the_result_keeps_the_dtype_and_bf16_is_rotated_in_float32() -> None:
    x, positions = torch.randn(1, 4, 2, sum(SPLIT)).bfloat16(), torch.rand(1, 4, 3) * 20
    turned = rope.rotate(x, positions, SPLIT, THETA)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rope.rotate(x.float(), positions, SPLIT, THETA).bfloat16())


def test_wan_gives_time_what_is_left_over() -> None:
    assert WAN_1_3B.rope_split == (44, 42, 42)


def test_tokens_stand_in_patch_order_at_world_columns() -> None:
    spec = PAFU_MINI
    offsets = torch.tensor([0.0, 48.0])
    grid = grid_positions(spec, 7, 2, offsets).view(2, spec.token_rows, spec.token_columns, 3)
    assert grid[1, 2, 3].tolist() == [8, 2, 3 + 48 / spec.pixels_per_column]
    assert grid[0, 1, 0].tolist() == [7, 1, 0]


def test_a_place_far_away_keeps_its_fraction_of_a_column() -> None:
    offset = 2.0**20 + 1.5
    grid = grid_positions(PAFU_MINI, 0, 1, torch.tensor([offset]))
    assert grid[0, 0, 2].item() == offset / PAFU_MINI.pixels_per_column


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_and_complex_arithmetic_turn_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x, positions = torch.randn(1, 7, 2, sum(SPLIT)).to(dtype), torch.rand(1, 7, 3) * 20
    angles = rope.angles(positions, SPLIT, THETA)
    torch.testing.assert_close(rope.apply_pairs(x, *angles), rope.apply(x, *angles))
