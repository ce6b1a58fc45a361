"""Promise: the operators' table of public checkpoints matches the specs."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.spec import WAN_FAMILY, ModelSpec

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def row(spec: ModelSpec) -> str:
    """As docs/operations.md has it; the window is the reference's, with the open chunk."""
    assert spec.source
    steps = ", ".join(map(str, spec.denoising_steps))
    first = ", ".join(map(str, spec.first_steps)) or "as others"
    window = spec.cache_budget_latents + spec.chunk_latents
    sink = {"window": "0"}.get(spec.cache_policy, "usual") if spec.cache_sink_latents is None else None
    cells = (
        f"`{spec.name}`",
        spec.source.repo,
        f"{steps}{', warped' if spec.warped else ''}",
        first,
        f"{spec.shift:g}",
        f"{spec.chunk_latents}",
        f"{spec.cache_policy}",
        f"{window:g}",
        sink or f"{spec.cache_sink_latents:g}",
        spec.position_mode,
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("spec", WAN_FAMILY, ids=lambda spec: spec.name)
def test_every_checkpoint_has_its_row(spec: ModelSpec) -> None:
    assert row(spec) in DOCUMENT.read_text().splitlines()
