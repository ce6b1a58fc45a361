"""An engine with workers of this machine, for tests that need no front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from server.config import Settings
from server.engine.local import LocalEngine
from tests.server.engine.engines import ROOT, local

Start = Callable[..., Awaitable[LocalEngine]]


@pytest.fixture
async def start_local(monkeypatch, tmp_path) -> AsyncIterator[Start]:
    """An engine with workers of this machine and these settings, ready; it is stopped behind the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running: list[LocalEngine] = []

    async def start(**settings: Any) -> LocalEngine:
        given = {"model": "test-tiny", "device": "cpu", "data_dir": tmp_path, "max_sessions": 4, **settings}
        engine = local(Settings(**given))
        running.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in running:
        await engine.stop(0.0)
