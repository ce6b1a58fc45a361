"""Base of all engines over a pool of workers: status, placing sessions, drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from model.spec import ModelSpec
from server.engine.drains import Drains
from server.engine.interface import EngineSession, EngineStatus, WorkerStatus
from server.engine.pool import Pool
from server.engine.pulse import Pulse
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Open
from server.states import EngineState, WorkerState
from server.telemetry.observer import Observer

SHUT_DOWN = "the server is shutting down"


class PooledEngine:
    """An Engine without ``start`` and ``stop``."""

    grows = False  # whether workers may join at any time

    def __init__(self, spec: ModelSpec, pool: Pool) -> None:
        self.observer = Observer(spec)
        self.pool = pool
        self._changed = Pulse()
        self._drains = Drains(pool, self._changed)
        self._stopped = False
        self.observer.sources.append(self._tell_places)

    def _note_change(self) -> None:
        """A worker's state or free room has changed."""
        self.observer.engine_state(self.state)
        self.observer.sessions_limit(self.pool.max_sessions or 1)
        self._changed.beat()

    async def _tell_places(self) -> None:
        """Before a scrape: report used and total places of each worker."""
        for member in self.pool.members:
            load = member.account.load
            self.observer.worker_places(member.slot.worker, len(member.account), load.most, load.held_bytes)

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
        """Why no session can start; empty if one can."""
        if self._stopped:
            return SHUT_DOWN
        if self.state is EngineState.READY:
            return ""
        said = (member.status().message for member in self.pool.members)
        return "; ".join(dict.fromkeys(filter(None, said)))

    def cache_bytes(self, cache: CacheChoice) -> int:
        return max(member.cache_bytes(cache) for member in self.pool.members)

    async def room_changed(self, timeout: float) -> None:
        await self._changed.wait(timeout)

    async def settled(self) -> None:
        """Wait until the engine is ready, failed or stopped."""
        while self.state in (EngineState.STARTING, EngineState.RESTARTING):
            await self._changed.wait()

    async def each_settled(self) -> AsyncIterator[WorkerStatus]:
        """Yield every worker once, when it first becomes ready or has failed."""
        told = set[str]()
        while not self._stopped:
            settled = [m for m in self.pool.members if m.state not in (WorkerState.STARTING, WorkerState.RESTARTING)]
            for status in [member.status() for member in settled if member.slot.worker not in told]:
                told.add(status.worker)
                yield status
            if not self.grows and len(told) == len(self.pool.members):
                return
            await self._changed.wait()

    async def wait_ready(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.settled()
        if self.state is EngineState.READY:
            return
        codes = {EngineState.FAILED: "worker_failed", EngineState.STOPPED: "shutting_down"}
        raise PafuError(codes.get(self.state, "not_ready"), f"no session can start: {self._message()}")

    def check(self, cache: CacheChoice) -> None:
        """Raises PafuError for a cache that no worker will ever take, as far as workers have been ready."""
        self.pool.check(cache)

    async def open(self, order: Open) -> EngineSession:
        """Open the session on a worker. Raises PafuError if the server is full or the worker refuses."""
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
