"""Measures event loop lag, which delays every viewer, and how much of it the front itself makes."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

LOOK_SECONDS = 0.025


class Turns(selectors.DefaultSelector):
    """Measures each turn of the event loop, from the end of one wait to the next: CPU time of its thread.

    Unlike the lag, that does not depend on what else the machine does.
    """

    _longest = 0.0
    _began: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._began is not None:
            self._longest = max(self._longest, time.thread_time() - self._began)
        ready = super().select(timeout)
        self._began = time.thread_time()
        return ready

    def longest(self) -> float:
        """Seconds of the longest turn since the last call."""
        longest, self._longest = self._longest, 0.0
        return longest


class FrontLoop(asyncio.SelectorEventLoop):
    """An event loop whose turns are measured."""

    def __init__(self) -> None:
        self.turns = Turns()
        super().__init__(self.turns)


async def watch_lag(observe: Callable[[float, float], None]) -> None:
    """Report repeatedly how late, in seconds, the loop returns from a short sleep, and its longest turn since the last
    report (0 unless it is a FrontLoop). Never returns."""
    loop = asyncio.get_running_loop()
    while True:
        due = time.perf_counter() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        busy = loop.turns.longest() if isinstance(loop, FrontLoop) else 0.0
        observe(max(0.0, time.perf_counter() - due), busy)
