"""A repeatable event for many waiters."""

from __future__ import annotations

import asyncio
import contextlib


class Pulse:
    """Each ``beat`` wakes all current waiters, and no later ones."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout: float | None = None) -> None:
        """Wait for the next beat, at most ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
