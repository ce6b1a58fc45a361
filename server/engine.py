"""Where workers live. The front asks an Engine and never knows whether it is local or far away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from server.messages import Ended, Fragment, Interact, Open, Ready, Rejected

SessionEvent = Fragment | Rejected | Ended


class EngineState(Enum):
    """Only READY takes sessions; FAILED is final until somebody changes the configuration."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class EngineStatus:
    """What /readyz and /health tell. ``message`` says why the engine is not ready."""

    state: EngineState
    message: str
    sessions: int
    restarts: int
    worker_pid: int | None
    worker_rss_bytes: int
    ready: Ready | None


class EngineSession(Protocol):
    """A session's line to its worker. Events end with an ``Ended``; commands to a session that is over do nothing."""

    id: str
    mime: str

    def events(self) -> AsyncIterator[SessionEvent]: ...
    async def interact(self, change: Interact) -> None: ...
    async def playhead(self, seconds: float) -> None: ...
    async def delivered(self, index: int) -> None: ...
    async def finish(self) -> None: ...
    async def close(self) -> None: ...


class Engine(Protocol):
    """Places sessions on workers."""

    async def start(self) -> None: ...
    async def stop(self, within: float) -> None:
        """End the workers: politely, after ``within`` seconds by force. May be called again."""

    def status(self) -> EngineStatus: ...
    async def wait_ready(self, timeout: float) -> None:
        """Return when sessions can be opened. Raises PafuError not_ready or worker_failed."""

    async def open(self, order: Open) -> EngineSession:
        """Open a session on a worker. Raises PafuError when refused."""
