"""Drain one worker while the others keep serving, and undo it."""

from __future__ import annotations

import asyncio
import logging
import time

from server.engine.pool import Pool, PoolMember
from server.engine.pulse import Pulse
from server.errors import PafuError
from server.states import WorkerState

log = logging.getLogger("pafu.engine")

POLL_SECONDS = 0.5  # recheck interval in case no change of room is announced
MOVE_WITHIN = 2.0  # longest wait for a moved session to open elsewhere


class Drains:
    """The workers being drained. Call ``opened.beat`` whenever a session gets a place."""

    def __init__(self, pool: Pool, changed: Pulse) -> None:
        self.opened = Pulse()
        self._pool, self._changed = pool, changed
        self._tasks: dict[PoolMember, asyncio.Task[None]] = {}

    def begin(self, name: str) -> PoolMember:
        """Drain a worker: no new sessions; its sessions move as others have room for them; then it stops.

        Raises PafuError not_found, or last_worker if no other worker serves.
        """
        member = self._pool.named(name)
        if member.draining:
            return member
        if not any(other.serving for other in self._pool.members if other is not member):
            reason = f"worker {member.slot.worker} is the only one serving; stop the server instead"
            raise PafuError("last_worker", reason, "worker")
        member.drain()
        self._start(member)
        return member

    def follow(self, member: PoolMember) -> None:
        """Another server has drained the worker: move this server's sessions."""
        task = self._tasks.get(member)
        if member.lines and (task is None or task.done()):
            self._start(member)

    def _start(self, member: PoolMember) -> None:
        self._tasks[member] = asyncio.create_task(self._drain(member), name=f"drain of worker {member.slot.worker}")

    async def undo(self, name: str) -> PoolMember:
        """Put the worker back into service, restarting it if it has stopped. Raises PafuError not_found."""
        member = self._pool.named(name)
        if not member.draining:
            return member
        if (task := self._tasks.pop(member, None)) is not None:
            if member.state is not WorkerState.DRAINED:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # let a finished drain complete
        await member.undrain()
        return member

    def cancel(self) -> None:
        """Cancel all drains, because the server stops."""
        for task in self._tasks.values():
            task.cancel()

    async def _drain(self, member: PoolMember) -> None:
        """Move one session at a time, to spread the load on the other workers."""
        log.warning("draining worker %s", member.slot.worker)
        asked: set[str] = set()
        while member.lines and member.draining:
            left = (name for name in member.lines if name not in asked and self._has_room_for(name, member))
            if (name := next(left, None)) is None:
                asked.clear()
                await self._changed.wait(POLL_SECONDS)
                continue
            asked.add(name)
            await member.move(name)
            await self._reopened(name, member)
        await member.leave()
        log.warning("drained worker %s", member.slot.worker)

    def _has_room_for(self, session_id: str, member: PoolMember) -> bool:
        line, others = member.lines[session_id], [other for other in self._pool.ready if other is not member]
        return self._pool.choose(others, line.cache, line.background, one_leaves=True) is not None

    async def _reopened(self, session_id: str, before: PoolMember) -> None:
        """Wait until the session is open elsewhere, at most MOVE_WITHIN, since it may have no viewer."""
        until = time.monotonic() + MOVE_WITHIN
        others = [member for member in self._pool.members if member is not before]
        while (left := until - time.monotonic()) > 0 and not any(session_id in other.lines for other in others):
            await self.opened.wait(left)
