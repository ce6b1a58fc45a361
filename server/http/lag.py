"""Measures event loop lag, which delays every viewer, and how much of it the front itself makes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 0.025


async def watch_lag(observe: Callable[[float, float], None]) -> None:
    """Report repeatedly how late, in seconds, the loop returns from a short sleep, and for how much of that it may have
    computed: no more than its thread's CPU time. The rest is the machine's. Never returns."""
    while True:
        due, spent = time.perf_counter() + LOOK_SECONDS, time.thread_time()
        await asyncio.sleep(LOOK_SECONDS)
        lag = max(0.0, time.perf_counter() - due)
        observe(lag, min(lag, time.thread_time() - spent))
