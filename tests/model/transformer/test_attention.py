"""Promise: plain and fused attention agree, and masks are obeyed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model.spec import TEST_TINY, ModelSpec
from model.transformer import attention, rope
from model.transformer.attention import Angles, Bidirectional, BlockCausal, attend
from model.transformer.dit import CausalDiT, init_for_learning
from model.transformer.positions import grid_positions


@pytest.mark.parametrize("heads_at_once", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_bf16_by_hand_agrees_with_float32(masked: bool, heads_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", heads_at_once * 5 * 9 * 2)
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 5, 3, 8), torch.randn(1, 9, 3, 8), torch.randn(1, 9, 3, 8)
    mask = torch.rand(5, 9) > 0.5 if masked else None
    if mask is not None:
        mask[:, 0] = True
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    weights = weights if mask is None else weights.masked_fill(~mask, -torch.inf)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights.softmax(-1), v)
    torch.testing.assert_close(attend(q, k, v, mask), expected, atol=1e-5, rtol=0)
    by_hand = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    assert by_hand.dtype == torch.bfloat16
    torch.testing.assert_close(by_hand.float(), expected, atol=0.03, rtol=0)


def test_a_block_sees_itself_and_earlier_blocks_only() -> None:
    torch.manual_seed(0)
    spec, positions = TEST_TINY, torch.rand(1, 6, 3)
    q, k, v = torch.randn(3, 1, 6, spec.num_heads, spec.head_dim)
    attention = BlockCausal(positions, spec, block_tokens=2)
    before = attention(0, q, k, v)
    k[:, 3], v[:, 3] = 9, 9  # the second block's last token
    changed = (attention(0, q, k, v) != before).flatten(2).any(-1)[0]
    assert changed.tolist() == [False, False, True, True, True, True]


def test_world_attention_starts_at_its_own_place(seeded_dit: Callable[[ModelSpec], CausalDiT]) -> None:
    """Queries and keys from the initial biases alone match best at equal row and world column."""
    spec = TEST_TINY
    dit = CausalDiT(spec)
    init_for_learning(dit)
    block = dit.blocks[0].self_attn
    frames = 2
    positions = grid_positions(spec, 0, frames, torch.tensor([0.0, 64.0]))  # panned by two columns
    tokens = positions.shape[1]
    bias = block.norm_q(block.q.bias).view(1, 1, spec.num_heads, spec.head_dim).expand(1, tokens, -1, -1)
    seen = torch.eye(tokens).view(1, tokens, 1, tokens).expand(1, -1, spec.num_heads, -1)
    weights = Bidirectional(positions, spec)(0, bias, bias, seen)[0]  # (query, head, key)
    place = positions[0, :, 1:]
    for query in range(tokens):
        best = weights[query, 0].max()
        peaks = weights[query, 0] > best - 1e-6
        same_place = (place == place[query]).all(dim=-1)
        assert torch.equal(peaks, same_place), "whenever it was seen"
    untouched = weights[:, spec.num_heads // 2 :]
    torch.testing.assert_close(untouched, torch.full_like(untouched, 1 / tokens))


def test_a_thing_at_its_place_is_kept_the_same_whenever_it_was_seen() -> None:
    """Novelty compares keys rotated by row and column only; the rotation by time, applied later, completes them."""
    torch.manual_seed(0)
    spec = TEST_TINY
    key = torch.randn(1, 1, spec.num_heads, spec.head_dim).expand(1, 3, -1, -1)
    positions = torch.tensor([[[2.0, 1, 3], [19, 1, 3], [2, 1, 4]]])
    angles = Angles.of(positions, spec)
    kept = rope.apply(key, *angles.place)
    assert torch.equal(kept[0, 0], kept[0, 1]) and not torch.allclose(kept[0, 0], kept[0, 2])
    turned = rope.rotate_time(kept, positions[..., 0], spec.rope_split, spec.rope_theta)
    torch.testing.assert_close(turned, rope.apply(key, *angles.whole), atol=1e-6, rtol=0)
