"""Promise: where memory is tight, the shipped heads remember more than the best rule without learning.

This is a small version of a table in docs/method.md, section 5: without the camera's pose, as in real models. The
differences asked for are about half of those in the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from model.distill.evaluation.compare import EvalSettings, Evaluation, tour_counts
from model.weights import load_model

pytestmark = pytest.mark.proof

FEW = EvalSettings(
    policies=("value_novelty", "pafu", "asked"),
    budgets=(1.0,),
    tours=2,
    tour_chunks=16,
    announced=2,
    called=0,
    veiled=0,
    absences=0,
    changes=0,
    mirrors=0,
    drifts=0,
    together=2,
    split="report",
    pose=False,
)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], float]:
    """(policy, kind of tour) -> share of long-unseen landmark pixels drawn correctly."""
    out: Path = tmp_path_factory.mktemp("claim")
    cells = Evaluation(load_model("pafu-mini", dtype=torch.float32), out, FEW).run(Console(quiet=True))["cells"]
    found = {}
    for cell in cells:
        for tours in ("tour", "announced"):
            right, asked = tour_counts(cell, "long", "accuracy", tours)
            found[cell["policy"], tours] = right.sum() / asked.sum()
    return found


def test_a_salience_head_leads_the_rule_on_open_tours(shares: dict[tuple[str, str], float]) -> None:
    assert shares["pafu", "tour"] > shares["value_novelty", "tour"] + 0.08


def test_heads_that_also_ask_the_prompt_lead_on_open_and_announced_tours(shares: dict[tuple[str, str], float]) -> None:
    assert shares["asked", "tour"] > shares["value_novelty", "tour"] + 0.1
    assert shares["asked", "announced"] > shares["value_novelty", "announced"] + 0.15
    assert shares["asked", "announced"] > shares["pafu", "announced"]


def test_the_full_cache_is_the_ceiling(shares: dict[tuple[str, str], float]) -> None:
    assert shares["full", "tour"] > 0.85 and shares["full", "announced"] > 0.85
    assert all(share <= shares["full", tours] + 0.01 for (_, tours), share in shares.items())
