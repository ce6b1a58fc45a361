"""One local worker of the pool: its supervised process, memory account and sessions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from server.engine.admission import WIDEST, Account, Capacity, Speed, cache_bytes, refusal
from server.engine.assignment import Assignment
from server.engine.interface import WorkerStatus
from server.engine.line import Line
from server.engine.supervisor import WorkerSupervisor
from server.errors import RETRY_AFTER, PafuError
from server.ipc.messages import (
    Beat,
    CacheChoice,
    Close,
    Ended,
    Finish,
    Fragment,
    Message,
    Open,
    Opened,
    Ready,
    Rejected,
    WorkerMessage,
)
from server.states import WorkerState
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.engine")

STOP_WITHIN = 5.0  # seconds for a drained worker to exit
SERVING = (WorkerState.STARTING, WorkerState.READY, WorkerState.RESTARTING)


class Member:
    """A local worker. ``changed`` is called when its state or free room changes."""

    def __init__(self, assignment: Assignment, observer: Observer, changed: Callable[[], None]) -> None:
        self.slot = assignment.slot
        self.lines: dict[str, Line] = {}
        self.draining = False
        self.last_beat: Beat | None = None
        self.last_death = ""  # one of server.telemetry.metrics.DEATHS
        self._setting = assignment.most
        self.account = Account(self._setting or 1)
        self._spec, self._usual = assignment.spec, assignment.configure.usual
        self._speed = Speed(self._spec, self._usual)  # kept across restarts
        self._observer, self._changed = observer, changed
        self._moving: set[str] = set()
        self._told: Ready | None = None  # what the newest process that was ready told, kept across restarts
        self.supervisor = WorkerSupervisor(
            assignment.name,
            assignment.configure,
            assignment.command,
            self,
            assignment.load_within,
            assignment.silent_within,
        )

    # ---- for the engine

    @property
    def state(self) -> WorkerState:
        state = self.supervisor.state
        if self.draining and state in (WorkerState.READY, WorkerState.STARTING, WorkerState.RESTARTING):
            return WorkerState.DRAINING
        return WorkerState.DRAINED if self.draining and state is WorkerState.STOPPED else state

    @property
    def serving(self) -> bool:
        """Whether it accepts sessions, or will once it has started."""
        return self.state in SERVING

    @property
    def silent_seconds(self) -> float:
        return self.supervisor.silent_seconds

    @property
    def capacity(self) -> Capacity:
        room = self.account.room
        return Capacity(
            by_speed=self._speed.sessions,
            by_memory=room // self.cache_bytes(self._usual) if room and self._usual else None,
            setting=self._setting,
            chunk_seconds=self._speed.chunk_seconds,
        )

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker=self.slot.worker,
            device=self.slot.device,
            state=self.state,
            message=self.supervisor.message,
            sessions=len(self.lines),
            restarts=self.supervisor.restarts,
            pid=self.supervisor.pid,
            rss_bytes=self.last_beat.rss_bytes if self.last_beat else 0,
            ready=self.supervisor.ready,
            silent_seconds=self.silent_seconds,
            cache_held_bytes=self.account.held_bytes,
            cache_room_bytes=self.account.room,
            capacity=self.capacity,
        )

    def cache_bytes(self, cache: CacheChoice) -> int:
        """Memory that a session with this cache holds on this worker."""
        dtype, codec = (self._told.dtype, self._told.codec_bytes) if self._told else (WIDEST, None)
        return cache_bytes(self._spec, cache, dtype, self.slot.devices, codec)

    def refusal(self, cache: CacheChoice) -> str | None:
        """Why the worker refuses every session with this cache; None if it does not, or has never been ready."""
        return refusal(self._spec, cache, self._told, self.slot.devices) if self._told else None

    async def open(self, order: Open, displaced: Sequence[str] = ()) -> Line:
        """Open a session that fits after closing the ``displaced`` ones. Raises PafuError if the worker refuses it."""
        for name in displaced:
            self._preempt(name, "a viewer needed the place; continue when there is room again")
        self.account.hold(order, self.cache_bytes(order.cache))
        line = self.lines[order.session] = Line(self, order)
        try:
            for name in displaced:
                await self.send(Close(session=name))
            await self.send(order)
            await line.opened
        except BaseException:
            await self.release(line.id)
            raise
        return line

    def start(self) -> None:
        self.supervisor.start()

    async def stop(self, within: float, reason: str) -> None:
        await self.supervisor.stop(within, reason)

    def drain(self) -> None:
        """Accept no sessions until ``undrain``."""
        self.draining = True
        self.became(self.supervisor.state)

    async def leave(self) -> None:
        """Stop the process, once it is drained."""
        await self.stop(STOP_WITHIN, "it was drained")

    async def undrain(self) -> None:
        """Accept sessions again, in a new process if the old one has stopped."""
        self.draining = False
        if self.supervisor.state is WorkerState.STOPPED:
            self.supervisor.start()
        self.became(self.supervisor.state)

    async def move(self, session_id: str) -> None:
        """Release the session for another worker after its current chunk; its events end with code "preempted"."""
        self._moving.add(session_id)
        await self.send(Finish(session=session_id))

    async def release(self, session_id: str) -> None:
        """Close a session here and on the worker, if it still exists."""
        if self._forget(session_id):
            await self.send(Close(session=session_id))

    async def send(self, message: Message) -> None:
        await self.supervisor.send(message)

    # ---- called by the supervisor

    def heard(self, message: WorkerMessage) -> None:
        match message:
            case Ready():
                self._make_room(message)
                self._observer.worker_ready(self.slot.worker, message)
            case Beat():
                self.last_beat = message
                self._observer.beat(self.slot.worker, message)
            case Opened() | Fragment() | Rejected() | Ended():
                if isinstance(message, Fragment):
                    self._observer.made(self.slot.worker, message)
                if line := self.lines.get(message.session):
                    if isinstance(message, Fragment):
                        self._note_speed(line, message)
                    self._forward(line, message)

    def died(self, how: str | None) -> None:
        self.last_beat = None
        if how is None:
            self._observer.worker_gone(self.slot.worker)
        else:
            self.last_death = how
            self._observer.worker_lost(self.slot.worker, how)

    def became(self, state: WorkerState) -> None:
        self._observer.worker_state(self.slot.worker, self.slot.device, self.state)
        self._changed()

    def lost(self, code: str, reason: str) -> None:
        for line in list(self.lines.values()):
            self._forward(line, Ended(session=line.id, chunks=0, reason="failed", code=code, message=reason))

    # ---- internal

    def _make_room(self, ready: Ready) -> None:
        """Set memory and session limits from the worker's Ready message."""
        self._told = ready
        self.account.room = ready.cache_room_bytes
        if ready.chunk_seconds is not None:
            self._speed.measured(ready.chunk_seconds)
        self.account.most = self._setting or self._speed.sessions or 1

    def _note_speed(self, line: Line, fragment: Fragment) -> None:
        """Adjust the session limit to the measured chunk time."""
        if self._speed.made(line.cache, fragment.index, fragment.stats.chunk_seconds):
            self.account.most = self._setting or self._speed.sessions or 1
            log.info(
                "%s: a chunk takes %.3f s, so %d sessions run in real time",
                *(self.supervisor.name, self._speed.chunk_seconds, self._speed.sessions),
            )
            self._changed()

    def _forward(self, line: Line, message: Opened | Fragment | Rejected | Ended) -> None:
        if isinstance(message, Opened):
            line.mime, line.init = message.mime, message.init
            if not line.opened.done():
                line.opened.set_result(None)
            return
        if isinstance(message, Ended):
            if line.id in self._moving and message.reason == "stopped":
                return self._preempt(line.id, f"worker {self.slot.worker} is being drained; continuing on another")
            self._forget(line.id)
            if not line.opened.done():
                line.opened.set_exception(PafuError(message.code or "internal_error", message.message))
                return
        line.put(message)

    def _preempt(self, session_id: str, reason: str) -> None:
        line = self.lines[session_id]
        self._forget(session_id)
        if not line.opened.done():
            return line.opened.set_exception(PafuError("session_rejected", reason, retry_after=RETRY_AFTER))
        line.put(Ended(session=session_id, chunks=0, reason="failed", code="preempted", message=reason))

    def _forget(self, session_id: str) -> bool:
        """Free the session's place. The worker frees the memory before it receives the next session."""
        self.account.free(session_id)
        self._moving.discard(session_id)
        known = self.lines.pop(session_id, None) is not None
        self._changed()
        return known
