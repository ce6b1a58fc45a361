"""One worker of several: its process, the account of its memory, and the lines of the sessions that it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from model.spec import ModelSpec
from server.config import Settings
from server.config.devices import Slot
from server.engine.admission import Account, Capacity, cache_bytes, in_real_time
from server.engine.interface import WorkerStatus
from server.engine.line import Line
from server.engine.placement import share_of
from server.engine.supervisor import WorkerSupervisor
from server.errors import RETRY_AFTER, PafuError
from server.ipc.messages import (
    Beat,
    CacheChoice,
    Close,
    Configure,
    Ended,
    Finish,
    Fragment,
    Message,
    Open,
    Opened,
    Parts,
    Ready,
    Rejected,
    WorkerMessage,
)
from server.states import WorkerState
from server.telemetry.observer import Observer

BEAT_SECONDS = 0.5
WIDEST = "float32"  # what a cache is taken to hold before the worker has said
SERVING = (WorkerState.STARTING, WorkerState.READY, WorkerState.RESTARTING)


class Member:
    """See the module. ``changed`` is called when its state or its room is another."""

    def __init__(
        self,
        slot: Slot,
        settings: Settings,
        workers: int,
        command: Sequence[str],
        observer: Observer,
        changed: Callable[[], None],
    ) -> None:
        self.slot = slot
        self.lines: dict[str, Line] = {}
        self.draining = False
        self._setting = None if settings.max_sessions is None else share_of(settings.max_sessions, workers)
        self.account = Account(self._setting or 1)
        self._spec: ModelSpec = settings.spec
        self._usual = CacheChoice.of(settings.cache())  # the cache of a session that asks for nothing
        self._by_speed: int | None = None  # the most that any of its processes found
        self._observer, self._changed = observer, changed
        self._moving: set[str] = set()
        self._rss = 0
        self.supervisor = WorkerSupervisor(
            f"worker {slot.worker} ({slot.device})" if workers > 1 else "the worker",
            configure(settings, slot, workers, self._usual),
            command,
            self,
            settings.load_timeout,
            settings.worker_timeout,
        )

    # ---- what the engine asks

    @property
    def state(self) -> WorkerState:
        state = self.supervisor.state
        if self.draining and state in (WorkerState.READY, WorkerState.STARTING, WorkerState.RESTARTING):
            return WorkerState.DRAINING
        return WorkerState.DRAINED if self.draining and state is WorkerState.STOPPED else state

    @property
    def serving(self) -> bool:
        """It takes sessions, or will again by itself."""
        return self.state in SERVING

    @property
    def silent_seconds(self) -> float:
        return self.supervisor.silent_seconds

    @property
    def capacity(self) -> Capacity:
        ready, room = self.supervisor.ready, self.account.room
        return Capacity(
            by_speed=self._by_speed,
            by_memory=room // self.cache_bytes(self._usual) if room else None,
            setting=self._setting,
            chunk_seconds=ready.chunk_seconds if ready else None,
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
            rss_bytes=self._rss,
            ready=self.supervisor.ready,
            silent_seconds=self.silent_seconds,
            cache_held_bytes=self.account.held_bytes,
            cache_room_bytes=self.account.room,
            capacity=self.capacity,
        )

    def cache_bytes(self, cache: CacheChoice) -> int:
        """What a session with this cache holds of its memory."""
        ready = self.supervisor.ready
        return cache_bytes(self._spec, cache, ready.dtype if ready else WIDEST)

    async def open(self, order: Open, displaced: Sequence[str] = ()) -> Line:
        """Take a session that fits once the ``displaced`` have gone. Raises PafuError when the worker refuses it."""
        for name in displaced:
            self._preempt(name, "a viewer needed the place; go on when there is room again")
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

    async def move(self, session_id: str) -> None:
        """Let the session go on elsewhere, behind the chunk in hand: its events end with the code "preempted"."""
        self._moving.add(session_id)
        await self.send(Finish(session=session_id))

    async def release(self, session_id: str) -> None:
        """Forget a session here and in the worker; harmless when it is already over."""
        if self._forget(session_id):
            await self.send(Close(session=session_id))

    async def send(self, message: Message) -> None:
        await self.supervisor.send(message)

    # ---- what the supervisor tells

    def heard(self, message: WorkerMessage) -> None:
        match message:
            case Ready():
                self._make_room(message)
                self._observer.worker_ready(self.slot.worker, message)
            case Beat():
                self._rss = message.rss_bytes
                self._observer.beat(self.slot.worker, message)
            case Opened() | Fragment() | Rejected() | Ended():
                if isinstance(message, Fragment):
                    self._observer.made(self.slot.worker, message)
                if line := self.lines.get(message.session):
                    self._hand_on(line, message)

    def died(self, how: str | None) -> None:
        self._rss = 0
        if how is None:
            self._observer.worker_gone(self.slot.worker)
        else:
            self._observer.worker_lost(self.slot.worker, how)

    def became(self, state: WorkerState) -> None:
        self._observer.worker_state(self.slot.worker, self.slot.device, self.state)
        self._changed()

    def lost(self, code: str, reason: str) -> None:
        for line in list(self.lines.values()):
            self._hand_on(line, Ended(session=line.id, chunks=0, reason="failed", code=code, message=reason))

    # ---- its own affairs

    def _make_room(self, ready: Ready) -> None:
        """As many sessions as fit from now on; a process that starts while the machine is busy takes no place away."""
        self.account.room = ready.cache_room_bytes
        if ready.chunk_seconds is not None:
            self._by_speed = max(self._by_speed or 1, in_real_time(self._spec, ready.chunk_seconds))
        self.account.most = self._setting or self._by_speed or 1

    def _hand_on(self, line: Line, message: Opened | Fragment | Rejected | Ended) -> None:
        if isinstance(message, Opened):
            line.mime, line.init = message.mime, message.init
            if not line.opened.done():
                line.opened.set_result(None)
            return
        if isinstance(message, Ended):
            if line.id in self._moving and message.reason == "stopped":
                return self._preempt(line.id, f"worker {self.slot.worker} is being drained; going on in another")
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
        """The session is over: its place is free. The worker frees the memory before it hears of the next one."""
        self.account.free(session_id)
        self._moving.discard(session_id)
        known = self.lines.pop(session_id, None) is not None
        self._changed()
        return known


def configure(settings: Settings, slot: Slot, workers: int, usual: CacheChoice) -> Configure:
    """What the worker is told first; a room that was set is for all workers together."""
    room = settings.cache_room_bytes
    return Configure(
        model=settings.model,
        weights=settings.weights_place,
        device=slot.device,
        threads=slot.threads,
        cache_room_bytes=room and max(1, room // workers),
        memory_share=slot.memory_share,
        beat_seconds=BEAT_SECONDS,
        log_level=settings.log_level,
        log_format=settings.log_format,
        salience_head=str(Path(settings.salience_head).resolve()) if settings.salience_head else None,
        parts=Parts.of(settings),
        usual=usual,
        called=settings.names,
    )
