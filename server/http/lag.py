"""A watch on the event loop: whatever holds it up holds up every viewer, whoever was the cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 0.025


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Tell again and again how late the loop came back from a short sleep, in seconds; never returns."""
    while True:
        due = time.perf_counter() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        observe(max(0.0, time.perf_counter() - due))
