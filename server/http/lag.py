"""Measures event loop lag, which delays every viewer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 0.025


async def watch_lag(observe: Callable[[float], None]) -> None:
    """Report repeatedly how late, in seconds, the loop returns from a short sleep. Never returns."""
    while True:
        due = time.perf_counter() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        observe(max(0.0, time.perf_counter() - due))
