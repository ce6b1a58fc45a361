"""The default engine: worker processes on this machine, one for each device that the server was given.

A session stays on its worker until it ends, its worker dies or is drained; then it is opened again, wherever there is
room. Each worker starts, dies and comes back by itself; the engine is ready while any of them takes sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from server.config import Settings
from server.config.devices import Slot
from server.engine.drains import Drains
from server.engine.interface import EngineSession, EngineStatus, WorkerStatus
from server.engine.member import Member
from server.engine.pool import Pool
from server.engine.pulse import Pulse
from server.engine.supervisor import WORKER_COMMAND
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Open
from server.states import EngineState, WorkerState
from server.telemetry.observer import Observer

SHUT_DOWN = "the server is shutting down"


class LocalEngine:
    """The workers of one server, as one."""

    def __init__(self, settings: Settings, slots: Sequence[Slot], command: Sequence[str] = WORKER_COMMAND) -> None:
        self.observer = Observer(settings.spec)
        self._changed = Pulse()
        self._stopped = False
        members = [Member(slot, settings, len(slots), command, self.observer, self._note_change) for slot in slots]
        self.pool = Pool(members, settings.max_sessions)
        self._drains = Drains(self.pool, self._changed)
        self.observer.sources.append(self._tell_places)
        self._note_change()

    def _note_change(self) -> None:
        """A worker's state or room is another."""
        self.observer.engine_state(self.state)
        self.observer.sessions_limit(self.pool.max_sessions or 1)
        self._changed.beat()

    async def _tell_places(self) -> None:
        """For a scrape: what each worker holds, and may hold."""
        for member in self.pool.members:
            load = member.account.load
            self.observer.worker_places(member.slot.worker, len(member.account), load.most, load.held_bytes)

    # ---- what the front asks

    async def start(self) -> None:
        for member in self.pool.members:
            member.supervisor.start()

    async def stop(self, within: float) -> None:
        """Ask the workers to go, wait a little, then insist."""
        self._stopped = True
        self._drains.cancel()
        await asyncio.gather(*(member.supervisor.stop(within, SHUT_DOWN) for member in self.pool.members))
        self._note_change()

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,
            message=self._message(),
            workers=tuple(member.status() for member in self.pool.members),
            capacity=self.pool.capacity,
            max_sessions=self.pool.max_sessions,
        )

    @property
    def state(self) -> EngineState:
        states = [member.state for member in self.pool.members]
        if self._stopped:
            return EngineState.STOPPED
        for one, whole in (
            (WorkerState.READY, EngineState.READY),
            (WorkerState.STARTING, EngineState.STARTING),
            (WorkerState.RESTARTING, EngineState.RESTARTING),
        ):
            if one in states:
                return whole
        return EngineState.FAILED

    def _message(self) -> str:
        """Why no session can begin; empty when one can."""
        if self._stopped:
            return SHUT_DOWN
        if self.state is EngineState.READY:
            return ""
        said = (member.supervisor.message for member in self.pool.members if member.supervisor.message)
        return "; ".join(dict.fromkeys(said))

    def cache_bytes(self, cache: CacheChoice) -> int:
        return max(member.cache_bytes(cache) for member in self.pool.members)

    async def room_changed(self, timeout: float) -> None:
        await self._changed.wait(timeout)

    async def settled(self) -> None:
        """Return when the engine is ready, or has failed or stopped for good."""
        while self.state in (EngineState.STARTING, EngineState.RESTARTING):
            await self._changed.wait()

    async def each_settled(self) -> AsyncIterator[WorkerStatus]:
        """Every worker as it has become ready, or is given up, for the first time."""
        waiting = list(self.pool.members)
        while waiting and not self._stopped:
            for member in [m for m in waiting if m.state not in (WorkerState.STARTING, WorkerState.RESTARTING)]:
                waiting.remove(member)
                yield member.status()
            if waiting:
                await self._changed.wait()

    async def wait_ready(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.settled()
        if self.state is EngineState.READY:
            return
        codes = {EngineState.FAILED: "worker_failed", EngineState.STOPPED: "shutting_down"}
        raise PafuError(codes.get(self.state, "not_ready"), f"no session can begin: {self._message()}")

    async def open(self, order: Open) -> EngineSession:
        """Place the session on a worker. Raises PafuError when the server is full or the worker refuses."""
        if self.state is not EngineState.READY:
            await self.wait_ready(0.0)
        member, displaced = self.pool.place(order)
        line = await member.open(order, displaced)
        self._drains.opened.beat()
        return line

    def drain(self, worker: str) -> WorkerStatus:
        return self._drains.begin(worker).status()

    async def undrain(self, worker: str) -> WorkerStatus:
        return (await self._drains.undo(worker)).status()
