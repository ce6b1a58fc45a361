"""A change that many may wait for."""

from __future__ import annotations

import asyncio
import contextlib


class Pulse:
    """Each ``beat`` wakes all who wait at that moment, and nobody later."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout: float | None = None) -> None:
        """Return with the next beat, or after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
