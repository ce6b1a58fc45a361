"""The life cycle of a session: on one worker after another, parked on disk while nobody watches, until it ends.

``Phase`` and ``TRANSITIONS`` declare the state machine. Only ``Life`` changes the phase; it also owns the engine
session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import Enum

import msgspec

from server.access.limits import Permit
from server.config import Settings
from server.engine.interface import EngineSession
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Rejected
from server.live.audience import Interrupted
from server.live.persistence import Persistence
from server.live.place_request import PlaceRequest
from server.live.retention import Retention
from server.live.session_state import SessionState
from server.live.waiting_room import WaitingRoom
from server.telemetry import logs
from server.telemetry.observer import SessionMetrics

log = logging.getLogger("pafu.live")

MAX_LOSSES = 3  # workers lost in a row with fewer than two chunks between them; then the session ends
PARK_WITHIN = 30.0  # seconds


class Phase(Enum):
    """The phase of a session; TRANSITIONS lists the allowed changes."""

    IDLE = "no worker, and none needed"
    QUEUED = "waiting for a worker"
    GENERATING = "a worker generates its chunks"
    HELD = "paused on a worker"
    PARKING = "a worker is writing its state to disk"
    STOPPING = "ending after the current chunk"
    ENDED = "over"


LOST = {Phase.QUEUED, Phase.IDLE, Phase.ENDED}  # what may follow the loss of a worker
TRANSITIONS: dict[Phase, set[Phase]] = {
    Phase.IDLE: {Phase.QUEUED, Phase.HELD, Phase.ENDED},  # HELD: a worker opened it after its viewer had left
    Phase.QUEUED: {Phase.GENERATING, Phase.HELD, Phase.IDLE, Phase.ENDED},
    Phase.GENERATING: {Phase.HELD, Phase.PARKING, Phase.STOPPING, *LOST},
    Phase.HELD: {Phase.GENERATING, Phase.PARKING, Phase.STOPPING, *LOST},
    Phase.PARKING: {Phase.STOPPING, *LOST},
    Phase.STOPPING: {Phase.ENDED},
    Phase.ENDED: set(),
}


class WorkerLosses:
    """Counts workers lost while they ran one session, since the session itself may crash them."""

    def __init__(self) -> None:
        self._in_a_row, self._chunks = 0, 0

    def made_chunk(self) -> None:
        """A worker finished a chunk of the session."""
        self._chunks += 1

    def too_many(self) -> bool:
        """Count one more loss; whether to give up the session."""
        if self._chunks > 1:
            self._in_a_row = 0
        self._in_a_row, self._chunks = self._in_a_row + 1, 0
        return self._in_a_row >= MAX_LOSSES


class Life:
    """Moves one session through its phases. ``begin`` starts it; all other methods may be called at any time."""

    def __init__(self, state: SessionState, files: Persistence, waiting_room: WaitingRoom, settings: Settings) -> None:
        self.phase = Phase.IDLE
        self._id = state.id
        self.engine_session: EngineSession | None = None
        self._state, self._audience, self._files = state, state.audience, files
        self._place_request = PlaceRequest(state, files, waiting_room)
        self._settings = settings
        self.retention = Retention(state, files, settings, self.park, self.expire)
        self._moved = asyncio.Event()
        self._losses = WorkerLosses()
        self._running: asyncio.Task[None] | None = None
        self._metrics: SessionMetrics | None = None
        self._counted: Permit | None = None  # counts against the caller's session limit until the end

    def begin(self, counted: Permit, metrics: SessionMetrics, done: Callable[[], None]) -> None:
        """Start the session. At its end, ``counted`` is released, then ``done`` is called."""
        self._counted, self._metrics = counted, metrics
        self._running = asyncio.create_task(self._run(), name=self._id)
        self._running.add_done_callback(lambda _: done())
        self.retention.run()

    def _enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            assert phase in TRANSITIONS[self.phase], f"{self._id}: {phase.name} does not follow {self.phase.name}"
            self.phase = phase
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _until(self, *phases: Phase) -> None:
        while self.phase not in phases:
            await self._moved.wait()

    # ---- on workers

    async def _run(self) -> None:
        with logs.about(session_id=self._id):
            try:
                await self._live()
            except PafuError as error:
                self.finish(error)
            except asyncio.CancelledError:
                self.finish(self.over("stopped"))
            except Exception:
                log.exception("%s failed", self._id)
                self.finish(PafuError("internal_error", "internal server error; see the server's log"))
            finally:
                await self._files.close()

    async def _live(self) -> None:
        while True:
            await self._until(Phase.QUEUED, Phase.ENDED)
            if self.phase is Phase.ENDED:
                return
            if (engine_session := await self._open_or_wait()) is None:
                continue
            try:  # the worker keeps a place until the session is closed, whatever happens
                await self._restore(engine_session)
                ended = await self._relay(engine_session)
            finally:
                self.engine_session = None
                self._state.changes.worker_lost()
                await engine_session.close()
            await self._after(ended)
            self._audience.publish()

    async def _open_or_wait(self) -> EngineSession | None:
        """Open the session on a worker. Raises PafuError.

        None if a started session finds no worker now: its owner is asked to retry later, and the session stays idle.
        """
        try:
            return await self._place_request.open()
        except PafuError as error:
            if not self._state.started or not error.kind.retryable:
                raise
            log.info("%s keeps waiting: %s", self._id, error.message)
            self._enter(Phase.IDLE)
            if (owner := self._audience.owner) is not None:
                owner.notices.append(error)
            self._audience.publish()
            return None

    async def _restore(self, engine_session: EngineSession) -> None:
        """Give the worker the session's playhead, changes and pause; record that a worker has it."""
        self.engine_session = engine_session
        self._audience.mime, self._audience.init = engine_session.mime, engine_session.init
        if self._metrics is not None:
            self._metrics.placed()
        self._enter(Phase.HELD if self._audience.idle else Phase.GENERATING)
        self._files.forget_snapshot()
        if self._audience.playhead is not None:
            await engine_session.playhead(self._audience.playhead)
        await self.hand_over_changes()
        if self.phase is Phase.HELD:
            await engine_session.pause()
        self._audience.publish()
        await self._files.begin()

    async def _relay(self, engine_session: EngineSession) -> Ended:
        """Process the worker's events until the session ends on this worker."""
        async for event in engine_session.events():
            match event:
                case Fragment():
                    await self._files.add(event)
                    await self._take(event, engine_session)
                case Rejected():
                    await self._files.add(event)
                    self._state.absorb(event)
                    self._audience.tell(event)
                case Ended():
                    return event
        raise AssertionError("the last event is Ended")

    async def _take(self, fragment: Fragment, engine_session: EngineSession) -> None:
        self._state.absorb(fragment)
        self._losses.made_chunk()
        self._audience.publish()
        self._files.settle()
        if (owner := self._audience.owner) is not None and fragment.index < owner.cursor:
            await engine_session.delivered(fragment.index)  # the owner already received it, before a server crash

    async def _after(self, ended: Ended) -> None:
        """After a worker ended the session: continue on another worker, stay parked, or end."""
        lost = ended.code in ("worker_failed", "preempted")
        parked = ended.reason == "parked"
        if self.phase is Phase.STOPPING and (lost or parked):
            return self.finish(self.over("stopped"))
        died = ended.code == "worker_failed"  # a preempted session did not crash its worker
        if not (lost or parked) or (died and self._losses.too_many()):
            again = f"{ended.message}, {MAX_LOSSES} times in a row; start a new session" if died else ended.message
            return self.finish(msgspec.structs.replace(ended, message=again))
        if parked:
            if ended.code is None:
                self._files.parked()
            else:
                log.warning("%s: snapshot failed (%s); keeping its latents", self._id, ended.message)
            await self._files.begin()
        else:
            log.warning(
                "%s continues on another worker from chunk %d: %s", self._id, self._state.next_index, ended.message
            )
            self._audience.tell(Interrupted(ended.message))
        wanted = not self._audience.idle and not (parked and self._files.outlives)
        self._enter(Phase.QUEUED if wanted else Phase.IDLE)

    async def hand_over_changes(self) -> None:
        """Send WAITING changes to the worker; without a worker, they keep waiting."""
        while self.engine_session is not None and (change := self._state.changes.take()):
            await self.engine_session.interact(change)

    # ---- commands from outside

    async def settle(self, rejoined: bool = False) -> None:
        """Adapt to a change of viewers or pause state. With ``rejoined``, the worker restarts its playout clock."""
        self._audience.publish()
        if self.phase is Phase.ENDED:
            return
        if self.engine_session is not None:
            await self.engine_session.jpeg(self._audience.wants_jpeg)
        if self._audience.idle:
            await self._hold()
        else:
            await self._resume(rejoined)

    async def _hold(self) -> None:
        """Stop generating: paused, or no owner."""
        self.retention.start()
        if self.engine_session is None and self.phase is Phase.QUEUED:
            self._enter(Phase.IDLE)
        elif self.engine_session is not None and self.phase is Phase.GENERATING:
            self._enter(Phase.HELD)
            await self.engine_session.pause()

    async def _resume(self, rejoined: bool) -> None:
        """Generate for the owner."""
        self.retention.stop()
        if self.engine_session is None:
            if self.phase is not Phase.STOPPING:
                self._enter(Phase.QUEUED)
        elif self.phase is Phase.HELD or (rejoined and self.phase is Phase.GENERATING):
            self._enter(Phase.GENERATING)
            await self.engine_session.resume()
            await self.hand_over_changes()

    async def stop(self) -> None:
        """End after the current chunk."""
        if self.engine_session is None:
            return self.finish(self.over("stopped"))
        if self.phase is not Phase.ENDED:
            self._enter(Phase.STOPPING)
        await self.engine_session.finish()

    async def park(self) -> None:
        """Write the state to disk and free the device. Returns when that is done or has failed."""
        if self.engine_session is None or self.phase is Phase.ENDED:
            return
        if self.phase is not Phase.STOPPING:
            self._enter(Phase.PARKING)
            await self.engine_session.park(self._files.snapshot_path)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARK_WITHIN):
                await self._until(Phase.IDLE, Phase.QUEUED, Phase.ENDED)

    def expire(self) -> None:
        """End a session whose viewer did not come back in time."""
        self.finish(PafuError("expired", "the session expired because no viewer came back in time; start a new one"))

    async def outlive(self) -> None:
        """At server shutdown: store the session so that another server can resume it, and end it here.

        The journal record comes first, since it is small and sufficient; the exact state follows if time allows.
        """
        try:
            if self._state.started and self._settings.keep_on_disk:
                self._files.outlives = True
                await self._files.begin()
                await self.park()
        finally:  # even if cancelled: viewers hear of the end only once the files are released
            await self._files.close()
            self.finish(self.over("server_shutdown"))

    def over(self, reason: str) -> Ended:
        """A regular end of the session."""
        return Ended(session=self._id, chunks=self._state.next_index, reason=reason, code=None, message="")

    def finish(self, end: Ended | PafuError) -> None:
        """End the session now; only the first call has an effect on ``end``."""
        if self.phase is not Phase.ENDED:
            self._audience.end = end
            if self._counted is not None:
                self._counted.release()
            if self._metrics is not None:
                reason = end.kind.code if isinstance(end, PafuError) else end.code or end.reason
                self._metrics.over(reason, self._state.newest)
            log.info("%s: %s", self._id, end.message if isinstance(end, PafuError) else end.message or end.reason)
            self._enter(Phase.ENDED)
        self.retention.stop()
        if self._running is not None and self._running is not asyncio.current_task():
            self._running.cancel()
        self._audience.publish()
