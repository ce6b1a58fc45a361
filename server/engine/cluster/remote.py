"""A front's view of one worker of the cluster: a mirror of its account, and the front's own sessions on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.engine.admission import WIDEST, Account, Capacity, cache_bytes, refusal
from server.engine.assignment import Assignment
from server.engine.cluster.conversation import Conversation, Link
from server.engine.cluster.messages import Admit, Drain, Heard, Hello, Move, Refused, Report, Said, Undrain
from server.engine.interface import WorkerStatus
from server.engine.line import Line
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Close, Ended, Fragment, Message, Open, Opened, Ready
from server.states import WorkerState
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.engine")


class RemoteMember:
    """A worker on another machine. ``changed`` is called when its state or free room changes."""

    def __init__(
        self, assignment: Assignment, link: Link, front: Hello, observer: Observer, changed: Callable[[], None]
    ) -> None:
        self.slot = assignment.slot
        self.lines: dict[str, Line] = {}
        self.account = Account(0)
        self.state = WorkerState.STARTING
        self._message = f"{assignment.name} is starting"
        self._assignment = assignment
        self._conversation = Conversation(assignment, link, front, self._take, self._broke)
        self._observer, self._changed = observer, changed
        self._report: Report | None = None
        self._gone: set[str] = set()  # sessions that have ended, but are still in the last report
        self._heard = time.monotonic()

    # ---- for the engine

    @property
    def draining(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.DRAINED)

    @property
    def serving(self) -> bool:
        return self.state in (WorkerState.STARTING, WorkerState.READY, WorkerState.RESTARTING)

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker's last message: as reported by the host, plus the time since that report."""
        worker = self._report.status.silent_seconds if self._report is not None else 0.0
        return worker + time.monotonic() - self._heard

    @property
    def capacity(self) -> Capacity:
        return self._report.status.capacity if self._report is not None else Capacity()

    def status(self) -> WorkerStatus:
        known = self._report.status if self._report is not None else self._unknown()
        return replace(
            known,
            worker=self.slot.worker,
            device=self.slot.device,
            state=self.state,
            message=self._message,
            sessions=len(self.account),
            silent_seconds=self.silent_seconds,
            cache_held_bytes=self.account.held_bytes,
            cache_room_bytes=self.account.room,
        )

    def cache_bytes(self, cache: CacheChoice) -> int:
        ready = self._report.status.ready if self._report is not None else None
        dtype, codec = (ready.dtype, ready.codec_bytes) if ready else (WIDEST, None)
        return cache_bytes(self._assignment.spec, cache, dtype, self.slot.devices, codec)

    def refusal(self, cache: CacheChoice) -> str | None:
        """Why the worker refuses every session with this cache; None if it does not, or is not known to be ready."""
        ready = self._report.status.ready if self._report is not None else None
        return refusal(self._assignment.spec, cache, ready, self.slot.devices) if ready else None

    async def open(self, order: Open, displaced: Sequence[str] = ()) -> Line:
        self._gone.discard(order.session)
        for name in displaced:
            self._free(name)
        self.account.hold(order, self.cache_bytes(order.cache))
        line = self.lines[order.session] = Line(self, order)
        self._conversation.tell(Admit(order=order, displaced=list(displaced)))
        try:
            await line.opened
        except BaseException:
            await self.release(line.id)
            raise
        return line

    async def move(self, session_id: str) -> None:
        self._conversation.tell(Move(session=session_id))

    async def release(self, session_id: str) -> None:
        """Close a session here and on the host, if it still exists."""
        if self.lines.pop(session_id, None) is not None:
            self.evict(session_id)

    def evict(self, session_id: str) -> None:
        """Close a session on the host, even if it belongs to another front."""
        self._conversation.tell(Close(session=session_id))
        self._free(session_id)
        self._changed()

    async def send(self, message: Message) -> None:
        if getattr(message, "session", None) in self.lines:
            self._conversation.tell(message)  # type: ignore[arg-type]

    def drain(self) -> None:
        self._conversation.tell(Drain())
        self._become(WorkerState.DRAINING, "")

    async def leave(self) -> None:
        """Nothing to do: the host stops the worker once all fronts' sessions have left."""

    async def undrain(self) -> None:
        self._conversation.tell(Undrain())
        self._become(WorkerState.STARTING if self.state is WorkerState.DRAINED else WorkerState.READY, "")

    def start(self) -> None:
        self._conversation.start()

    async def stop(self, within: float, code: str, reason: str) -> None:
        """End this front's sessions and leave the host; waits at most ``within`` seconds."""
        await self._conversation.stop()
        self._lose(code, reason)
        if within > 0 and self._report is not None:
            await self._conversation.bye(within)
        self._observer.worker_gone(self.slot.worker)

    # ---- messages from the host

    def _take(self, heard: Heard) -> None:
        self._heard = time.monotonic()
        for said in heard.said:
            self._pass_on(said)
        self._mirror(heard.report)

    def _pass_on(self, said: Said) -> None:
        line = self.lines.get(said.session)
        if line is None:
            return
        match said:
            case Opened():
                line.mime, line.init = said.mime, said.init
                if not line.opened.done():
                    line.opened.set_result(None)
                return
            case Refused():
                self._forget(line)
                return line.opened.set_exception(said.error())
            case Ended():
                self._forget(line)
                if not line.opened.done():
                    return line.opened.set_exception(PafuError(said.code or "internal_error", said.message))
            case Fragment():
                self._observer.made(self.slot.worker, said)
        line.put(said)

    def _mirror(self, report: Report) -> None:
        """Mirror the host's report, except for changes that are still on their way to the host."""
        before, self._report = self._report, report
        own = {name: held for name, held in self.account.held.items() if name in self.lines}
        self._gone &= report.held.keys()
        held = {name: held for name, held in report.held.items() if name not in self._gone}
        self.account = Account(report.most, report.status.cache_room_bytes, held | own)
        self._observe(before, report)
        if (self.state, self._message) != (report.status.state, report.status.message) or before != report:
            self._become(report.status.state, report.status.message)

    def _observe(self, before: Report | None, now: Report) -> None:
        worker, was = self.slot.worker, before.status if before is not None else None
        if was is not None and now.status.restarts > was.restarts:
            self._observer.worker_lost(worker, now.last_death)
        ready: Ready | None = now.status.ready
        if ready is not None and (was is None or was.ready != ready):
            self._observer.worker_ready(worker, ready)
        if now.beat is not None and (before is None or before.beat != now.beat):
            self._observer.beat(worker, now.beat)

    def _broke(self, state: WorkerState, message: str) -> None:
        """The host is unreachable: forget everything about its worker."""
        if self._report is not None:
            log.warning("%s", message)
            self._observer.worker_gone(self.slot.worker)
        self._report = None
        self.account = Account(0)
        self._lose("worker_failed", message)
        self._become(state, message)

    def _lose(self, code: str, reason: str) -> None:
        for name in list(self.lines):
            self._pass_on(Ended(session=name, chunks=0, reason="failed", code=code, message=reason))

    def _forget(self, line: Line) -> None:
        self.lines.pop(line.id, None)
        self._free(line.id)
        self._changed()

    def _free(self, session: str) -> None:
        self.account.free(session)
        self._gone.add(session)

    def _become(self, state: WorkerState, message: str) -> None:
        self.state, self._message = state, message
        self._observer.worker_state(self.slot.worker, self.slot.device, state)
        self._changed()

    def _unknown(self) -> WorkerStatus:
        return WorkerStatus(
            worker=self.slot.worker,
            device=self.slot.device,
            state=self.state,
            message=self._message,
            sessions=0,
            restarts=0,
            pid=None,
            rss_bytes=0,
            ready=None,
            silent_seconds=0.0,
            cache_held_bytes=0,
            cache_room_bytes=0,
            capacity=Capacity(),
        )
