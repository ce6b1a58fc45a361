"""Taking one worker out of service while the others serve, and taking it back."""

from __future__ import annotations

import asyncio
import logging
import time

from server.engine.member import Member
from server.engine.pool import Pool
from server.engine.pulse import Pulse
from server.errors import PafuError
from server.states import WorkerState

log = logging.getLogger("pafu.engine")

POLL_SECONDS = 0.5  # room elsewhere that became free unheard of is found after so long
MOVE_WITHIN = 2.0  # a session that was asked to move and is not open elsewhere by then is not waited for
STOP_WITHIN = 5.0


class Drains:
    """The workers that leave. ``opened`` is to be beaten whenever a session got a place."""

    def __init__(self, pool: Pool, changed: Pulse) -> None:
        self.opened = Pulse()
        self._pool, self._changed = pool, changed
        self._tasks: dict[Member, asyncio.Task[None]] = {}

    def begin(self, name: str) -> Member:
        """Give the worker no more sessions, move those that it has as others have room for them, and end it behind
        the last. Raises PafuError not_found, or last_worker when nobody would be left to serve."""
        member = self._pool.named(name)
        if member.draining:
            return member
        if not any(other.serving for other in self._pool.members if other is not member):
            reason = f"worker {member.slot.worker} is the only one that serves; stop the server instead"
            raise PafuError("last_worker", reason, "worker")
        member.draining = True
        member.became(member.supervisor.state)
        self._tasks[member] = asyncio.create_task(self._drain(member), name=f"drain of worker {member.slot.worker}")
        return member

    async def undo(self, name: str) -> Member:
        """Let the worker take sessions again; one that has ended is started. Raises PafuError not_found."""
        member = self._pool.named(name)
        if task := self._tasks.pop(member, None):
            if member.supervisor.state is not WorkerState.STOPPED:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # one that ends is heard out
            member.draining = False
            if member.supervisor.state is WorkerState.STOPPED:
                member.supervisor.start()
            member.became(member.supervisor.state)
        return member

    def cancel(self) -> None:
        """The whole server stops."""
        for task in self._tasks.values():
            task.cancel()

    async def _drain(self, member: Member) -> None:
        """One session after the other, so that the others take them in without a hurry."""
        log.warning("worker %s is being drained", member.slot.worker)
        asked: set[str] = set()
        while member.lines:
            left = (name for name in member.lines if name not in asked and self._has_room_for(name, member))
            if (name := next(left, None)) is None:
                asked.clear()
                await self._changed.wait(POLL_SECONDS)
                continue
            asked.add(name)
            await member.move(name)
            await self._reopened(name, member)
        await member.supervisor.stop(STOP_WITHIN, "it was drained")
        log.warning("worker %s is drained", member.slot.worker)

    def _has_room_for(self, session_id: str, member: Member) -> bool:
        line, others = member.lines[session_id], [other for other in self._pool.ready if other is not member]
        return self._pool.choose(others, line.cache, line.background, one_leaves=True) is not None

    async def _reopened(self, session_id: str, before: Member) -> None:
        """Return when the session is open elsewhere, or when that takes too long: nobody may be looking at it."""
        until = time.monotonic() + MOVE_WITHIN
        others = [member for member in self._pool.members if member is not before]
        while (left := until - time.monotonic()) > 0 and not any(session_id in other.lines for other in others):
            await self.opened.wait(left)
