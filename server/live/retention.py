"""How long an idle session is kept: first on the device, then on disk, then it expires."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from server.config import Settings
from server.live.persistence import Persistence
from server.live.session_state import SessionState


class Retention:
    """The timer of an idle session."""

    def __init__(
        self,
        state: SessionState,
        files: Persistence,
        settings: Settings,
        park: Callable[[], Awaitable[None]],
        expire: Callable[[], None],
    ) -> None:
        """``park`` moves the session from the device to disk, ``expire`` ends it."""
        self._state, self._files, self._settings = state, files, settings
        self._park, self._expire = park, expire
        self.idle_since = math.inf  # monotonic; infinite while not idle
        self._clock: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The session becomes idle."""
        self.idle_since = min(self.idle_since, time.monotonic())
        self.run()

    def run(self) -> None:
        """Start the timer unless it is running."""
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._run(), name=f"{self._state.id}-retention")

    def stop(self) -> None:
        """The session is active again, or over."""
        self.idle_since = math.inf
        if self._clock is not None and self._clock is not asyncio.current_task():
            self._clock.cancel()
            self._clock = None

    async def _run(self) -> None:
        settings, audience = self._settings, self._state.audience
        if not self._state.started and audience.owner is None:
            return self._expire()
        await asyncio.sleep(settings.keep_on_device)
        if settings.keep_on_disk:
            await self._park()
            while audience.owner is not None:  # paused, not abandoned: keep its file from expiring
                await asyncio.sleep(settings.keep_on_disk / 2)
                self._files.touch()
            await asyncio.sleep(settings.keep_on_disk)
        if audience.owner is None:
            self._expire()
