"""Promise: two checkouts are compared in turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.bench.against import AgainstError, Comparison, Side, compare

ROOT = Path(__file__).parents[3]
GIVEN = ("pafu-mini", "pafu", "3.0", "1", "float32")


def test_a_folder_that_is_no_checkout_and_one_that_cannot_stream_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AgainstError, match="is not a checkout of Pafu: it has no model/stream.py"):
        compare(tmp_path, *GIVEN[:2], 3.0, 1, "float32", chunks=1)
    with pytest.raises(AgainstError, match="cannot be measured: .*no weights ship with model 'test-tiny'"):
        Side(ROOT, ("test-tiny", *GIVEN[1:]))


def test_a_side_makes_a_chunk_when_it_is_told_to() -> None:
    side = Side(ROOT, GIVEN)
    try:
        assert side.chunk() > 0
    finally:
        side.close()
    assert Comparison(30.0, 20.0, 5).ratio == 1.5
