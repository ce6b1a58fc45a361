"""Promise: two checkouts are compared in turns, on the same weights, and what cannot be compared ends in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.bench.against import AgainstError, Comparison, compare, rolling, served_rate
from server.bench.roll_out import EQUAL, Setup

ROOT = Path(__file__).parents[3]
SMALL = Setup("test-wan", 2, 64, 32, "float32", "cpu", 1)


def test_a_folder_that_is_no_checkout_and_one_that_cannot_stream_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AgainstError, match=r"neither of Pafu .* nor of Self-Forcing"):
        compare(tmp_path, [SMALL], {}, print)
    for package, text in (("cache", ""), ("model", ""), ("server", "raise SystemExit('no bench here')")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
    with pytest.raises(AgainstError, match="cannot be measured: no bench here"):
        compare(tmp_path, [SMALL], {}, print)
    (tmp_path / "wan" / "modules").mkdir(parents=True)
    (tmp_path / "wan" / "modules" / "attention.py").write_text("import fast_attention")
    with pytest.raises(AgainstError, match="No module named 'fast_attention'"), rolling(str(tmp_path), SMALL):
        pass


def test_a_side_makes_a_chunk_when_it_is_told_to() -> None:
    with rolling("pafu", SMALL) as side:
        assert len(side.first) == 16
        assert side.chunk(EQUAL) > 0 and side.chunk("pafu 3") > 0
    assert Comparison("all", 30.0, 20.0, 5).ratio == 1.5


def test_a_checkout_of_pafu_is_measured_end_to_end() -> None:
    rate, size = served_rate(ROOT, {"PAFU_CACHE_POLICY": "pafu", "PAFU_THREADS": "1", "PAFU_SIZE": "256x128"}, 2)
    assert rate > 0 and size == "256x128"
