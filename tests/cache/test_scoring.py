"""Promise: the blockwise scores equal the formulas computed directly with the whole of P in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cache import scoring
from cache.scoring import (
    SalienceParts,
    balanced_salience,
    effect,
    received_attention,
    salience_parts,
    shared_salience,
)

HEADS, DIM, BLOCK = 3, 8, 10


def random_clip(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(HEADS, tokens, DIM, generator=generator) for _ in range(2))
    return q * 2, k


def attention_of(q: Tensor, k: Tensor) -> Tensor:
    return (q.double() @ k.double().mT / DIM**0.5).softmax(-1)


def without_each(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(H, queries, keys): how far a query's output moves if a key is really left out."""
    whole, moved = attention_of(q, k) @ v.double(), []
    for j in range(k.shape[1]):
        others = [i for i in range(k.shape[1]) if i != j]
        moved.append((attention_of(q, k[:, others]) @ v[:, others].double() - whole).norm(dim=-1))
    return torch.stack(moved, -1)


def direct_parts(p: Tensor, block: int, reduce: str, gap: int) -> dict[str, Tensor]:
    """The definition, key by key; p (H, queries, keys)."""
    parts: dict[str, list[Tensor]] = {"low": [], "diag": [], "up": []}
    for j in range(p.shape[2]):
        blocks, own = torch.arange(p.shape[1]) // block, j // block
        for name, queries in {"low": blocks >= own + gap, "diag": blocks == own, "up": blocks < own}.items():
            seen = p[:, queries, j]
            best = torch.zeros(HEADS) if seen.shape[1] == 0 else seen.amax(1) if reduce == "max" else seen.mean(1)
            parts[name].append(best.mean())
    return {name: torch.stack([torch.as_tensor(v).float() for v in values]) for name, values in parts.items()}


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("gap", [1, 3])
@pytest.mark.parametrize("rows", [4, 10, 64])
def test_parts_equal_the_direct_formula(reduce: str, gap: int, rows: int) -> None:
    q, k = random_clip(5 * BLOCK)
    parts = salience_parts(q, k, BLOCK, reduce=reduce, gap=gap, rows=rows)
    for name, expected in direct_parts(attention_of(q, k), BLOCK, reduce, gap).items():
        assert torch.allclose(getattr(parts, name), expected, atol=1e-5, rtol=1e-5), name


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("rows", [4, 64])
def test_parts_with_values_say_what_leaving_a_key_out_would_change(reduce: str, rows: int) -> None:
    (q, k), v = random_clip(5 * BLOCK), random_clip(5 * BLOCK, seed=1)[1]
    parts = salience_parts(q, k, BLOCK, v=v, reduce=reduce, gap=2, rows=rows)
    for name, expected in direct_parts(without_each(q, k, v), BLOCK, reduce, 2).items():
        assert torch.allclose(getattr(parts, name), expected, atol=1e-5, rtol=1e-5), name


def test_a_key_with_copies_has_little_effect_however_much_it_is_looked_at() -> None:
    p, v = torch.tensor([[[0.4, 0.4, 0.2]]]), torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    copy, _, alone = effect(p, v)[0, 0].tolist()
    assert copy < alone


def test_a_key_that_has_all_attention_has_a_finite_effect() -> None:
    p, v = torch.tensor([[[1.0, 0.0]]]), torch.randn(1, 2, 4)
    assert bool(effect(p, v).isfinite().all())


def test_layers_share_the_mean_rank_of_the_deeper_half() -> None:
    rows = torch.tensor([[9.0, 0, 0, 0, 0, 9], [0, 0, 9, 9, 0, 0], [0, 0.5, 1, 1, 0.5, 0], [0, 1, 0.9, 1, 0.9, 0]])
    assert shared_salience(rows, 3).tolist() == pytest.approx([0, 0.5, 1, 1, 0.5, 0]), "ranked by block"


def test_a_clip_that_does_not_divide_into_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens in blocks of 10"):
        salience_parts(*random_clip(25), BLOCK)


def test_parts_never_hold_a_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    softmax = torch.softmax

    def watched(scores: Tensor, dim: int) -> Tensor:
        nonlocal largest
        largest = max(largest, scores.numel())
        return softmax(scores, dim)

    monkeypatch.setattr(torch, "softmax", watched)
    q, k = random_clip(600)
    expected = salience_parts(q, k, 60, rows=20)
    assert 0 < largest <= HEADS * 20 * 600
    largest = 0
    monkeypatch.setattr(scoring, "MOST_NUMBERS", 5 * HEADS * 600)
    again = salience_parts(q, k, 60, rows=20)
    assert 0 < largest <= 5 * HEADS * 600, "a long clip took as many rows as a short one"
    assert torch.allclose(again.low, expected.low, atol=1e-6)


def parts(low: list[float], diag: list[float], up: list[float]) -> SalienceParts:
    return SalienceParts(*(torch.tensor(part) for part in (low, diag, up)))


def test_balance_gives_every_block_and_part_the_same_say() -> None:
    """The first block gets a thousand times more attention than the second, and the diagonal more than all else."""
    low = [1e-3, 2e-3, 3e-3, 1e-6, 2e-6, 3e-6]
    uneven = parts(low, [9.0, 1.0, 5.0, 9.0, 1.0, 5.0], [0.0] * 6)
    assert balanced_salience(uneven, 3, (1, 0, 0)).tolist() == pytest.approx([0, 0.5, 1] * 2)
    assert balanced_salience(uneven, 3, (1, 1, 0)).tolist() == pytest.approx([0.5, 0.25, 0.75] * 2)
    assert balanced_salience(uneven, 3, (0, 0, 1)).tolist() == pytest.approx([0.5] * 6), "ties share their rank"
    assert balanced_salience(uneven, 3, (1, 0, 0), "clip").tolist() == pytest.approx([0.6, 0.8, 1, 0, 0.2, 0.4])
    assert balanced_salience(uneven, 3, (1, 0, 0), "both").tolist() == pytest.approx([0.3, 0.65, 1, 0, 0.35, 0.7])
    squeezed = balanced_salience(uneven, 3, (1, 0, 0), "robust")
    assert torch.allclose(squeezed[:3], squeezed[3:]) and bool((squeezed[:3].diff() > 0.2).all())


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, -1.0, 1.0)])
def test_weights_that_weigh_nothing_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="one must be positive"):
        balanced_salience(parts([1.0], [1.0], [1.0]), 1, weights)


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(ValueError, match="unknown scale 'loud'; known: rank, robust, clip, both"):
        balanced_salience(parts([1.0], [1.0], [1.0]), 1, (1, 1, 1), "loud")  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [3, 100])
def test_received_attention_is_the_mean_over_heads_and_queries(rows: int) -> None:
    q, k = random_clip(17)
    p = (q @ k.mT / DIM**0.5).softmax(-1)
    ours = received_attention(q.transpose(0, 1), k.transpose(0, 1), rows=rows)
    assert torch.allclose(ours, p.mean((0, 1)), atol=1e-6)
    most = received_attention(q.transpose(0, 1), k.transpose(0, 1), "max", rows)
    assert torch.allclose(most, p.amax(1).mean(0), atol=1e-6)
    assert float(ours.sum()) == pytest.approx(1, abs=1e-5)
