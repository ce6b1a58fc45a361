"""The front's end of one session on a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from server.engine.interface import SessionEvent
from server.ipc.messages import (
    Delivered,
    Ended,
    Finish,
    Interact,
    Jpeg,
    Message,
    Open,
    Park,
    Pause,
    Playhead,
    Resume,
)


class Host(Protocol):
    """The owner of the worker that runs the session."""

    @property
    def silent_seconds(self) -> float: ...
    async def send(self, message: Message) -> None: ...
    async def release(self, session_id: str) -> None: ...


class Line:
    """An EngineSession: sends commands to its host as messages and queues the worker's events until they are read."""

    def __init__(self, host: Host, order: Open) -> None:
        self.id, self.cache, self.background = order.session, order.cache, order.background
        self.mime = ""
        self.init = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._host = host
        # bounded, because the worker stays at most the lead ahead of what was delivered
        self._queue: asyncio.Queue[SessionEvent] = asyncio.Queue()

    def put(self, event: SessionEvent) -> None:
        self._queue.put_nowait(event)

    @property
    def silent_seconds(self) -> float:
        return self._host.silent_seconds

    async def events(self) -> AsyncIterator[SessionEvent]:
        while True:
            event = await self._queue.get()
            yield event
            if isinstance(event, Ended):
                return

    async def interact(self, change: Interact) -> None:
        await self._host.send(change)

    async def playhead(self, seconds: float) -> None:
        await self._host.send(Playhead(session=self.id, seconds=seconds))

    async def delivered(self, index: int) -> None:
        await self._host.send(Delivered(session=self.id, index=index))

    async def pause(self) -> None:
        await self._host.send(Pause(session=self.id))

    async def resume(self) -> None:
        await self._host.send(Resume(session=self.id))

    async def jpeg(self, wanted: bool) -> None:
        await self._host.send(Jpeg(session=self.id, wanted=wanted))

    async def park(self, path: Path) -> None:
        await self._host.send(Park(session=self.id, path=str(path)))

    async def finish(self) -> None:
        await self._host.send(Finish(session=self.id))

    async def close(self) -> None:
        await self._host.release(self.id)
