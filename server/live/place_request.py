"""Get a worker for a session: wait in the waiting room, then restore its exact state if possible."""

from __future__ import annotations

import logging

import msgspec

from server.engine.interface import EngineSession
from server.errors import PafuError
from server.live.audience import Queued
from server.live.persistence import Persistence
from server.live.session_state import SessionState
from server.live.waiting_room import WaitingRoom

log = logging.getLogger("pafu.live")


class PlaceRequest:
    """Requests a worker for one session."""

    def __init__(self, state: SessionState, files: Persistence, waiting_room: WaitingRoom) -> None:
        self._state, self._files, self._waiting_room = state, files, waiting_room
        self._told: Queued | None = None

    async def open(self) -> EngineSession:
        """Open the session on a worker in its current state. Raises PafuError."""
        self._told = None
        try:
            return await self._wait()
        except PafuError as error:
            if self._files.snapshot is None or error.kind.retryable:
                raise
            log.warning("%s: snapshot unusable (%s); resuming from latents", self._state.id, error.message)
            self._files.snapshot = None
            return await self._wait()

    async def _wait(self) -> EngineSession:
        changes = self._state.changes
        order = msgspec.structs.replace(self._state.open_request(self._files.snapshot), changes=changes.pending)
        engine_session = await self._waiting_room.open(order, self._state.started, self._tell)
        changes.handed_over(order.changes)  # part of the open request, so the first chunk cannot precede them
        return engine_session

    def _tell(self, position: int, depth: int, seconds: float | None) -> None:
        """Tell the viewers the session's queue position when it changes."""
        queued = Queued(position, depth, seconds)
        if queued != self._told:
            self._told = queued
            self._state.audience.tell(queued)
