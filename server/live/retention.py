"""How long a session without a viewer is kept: first on the device, then on disk, then no longer."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol

from server.config import Settings


class IdleSession(Protocol):
    """What retention asks of its session."""

    @property
    def id(self) -> str: ...

    @property
    def watched(self) -> bool:
        """It has an owner, who may have paused it."""

    @property
    def started(self) -> bool:
        """It has made a chunk."""

    async def park(self) -> None: ...
    def touch(self) -> None:
        """Its file is in use, however old it is."""

    def expire(self) -> None: ...


class Retention:
    """The clock of an idle session."""

    def __init__(self, session: IdleSession, settings: Settings) -> None:
        self._session, self._settings = session, settings
        self.idle_since = math.inf  # monotonic; infinite while somebody wants pictures
        self._clock: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Nobody wants pictures any more."""
        self.idle_since = min(self.idle_since, time.monotonic())
        self.run()

    def run(self) -> None:
        """Start the clock, unless it runs."""
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._run(), name=f"{self._session.id}-retention")

    def stop(self) -> None:
        """Somebody wants pictures, or the session is over."""
        self.idle_since = math.inf
        if self._clock is not None and self._clock is not asyncio.current_task():
            self._clock.cancel()
            self._clock = None

    async def _run(self) -> None:
        session, settings = self._session, self._settings
        if not session.started and not session.watched:
            return session.expire()
        await asyncio.sleep(settings.keep_on_device)
        if settings.keep_on_disk:
            await session.park()
            while session.watched:  # paused: its file must not become old
                await asyncio.sleep(settings.keep_on_disk / 2)
                session.touch()
            await asyncio.sleep(settings.keep_on_disk)
        if not session.watched:
            session.expire()
