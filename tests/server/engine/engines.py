"""Engines over workers whose model is the test pattern, and sessions on them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from server.config import Settings
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.ipc.messages import CacheChoice, Fragment, Open

ROOT = Path(__file__).resolve().parents[3]
PATTERN = ROOT / "tests/server/pattern.py"
PATIENCE = 120.0  # a test that waits longer hangs; nothing is measured with it
CACHE = CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)


def local(settings: Settings, command: tuple[str, ...]) -> LocalEngine:
    return LocalEngine(settings, slots_for(settings), command)


def order(session: str = "sess_1", **fields: Any) -> Open:
    usual = {"prompt": "a bar", "seed": 1, "lead_seconds": 1e9, "cache": CACHE, "pictures": 36}
    return Open(session=session, **{**usual, **fields})


async def take(line, chunks: int) -> list[Fragment]:
    """Receive this many chunks, each delivered."""
    taken: list[Fragment] = []
    async with asyncio.timeout(PATIENCE):
        async for event in line.events():
            assert isinstance(event, Fragment), event
            taken.append(event)
            await line.delivered(event.index)
            if len(taken) == chunks:
                break
    return taken


async def rest(line) -> list[Any]:
    """All events to the end; every chunk is delivered and played at once."""
    events: list[Any] = []
    await line.playhead(1e9)  # as far as was delivered
    async with asyncio.timeout(PATIENCE):
        async for event in line.events():
            events.append(event)
            if isinstance(event, Fragment):
                await line.delivered(event.index)
                await line.playhead(1e9)
    return events
