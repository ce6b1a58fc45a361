"""The engine interface. The front uses an Engine without knowing where its workers run.

A live session is paced by its viewer: ``playhead`` and ``delivered`` feed the scheduler's playout clock. A
**background** session (a job) has no viewer and is opened by the same call::

    resume_point = ResumePoint(spec, cache)  # server.live.resume_point
    order = Open(session=job_id, background=True, pictures=160, lead_seconds=math.inf, past=None, ...)
    engine_session = await engine.open(order)
    async for event in engine_session.events():
        match event:
            case Fragment():  # one chunk; event.data is its m4s fragment, the first with ftyp and moov in front
                resume_point.add(event)  # event.past, event.camera: from which another worker can continue
                ...  # store the fragment and resume_point.past() durably
                await engine_session.delivered(event.index)  # the worker then starts the next chunk
            case Ended(reason="complete"): ...  # all pictures are done
            case Ended(code="worker_failed" | "preempted"): ...  # open again with past=resume_point.past()
            case Ended(code=str()): ...  # failed permanently
    await engine_session.close()  # any time: stops before the model's next pass and frees the memory

Guarantees for a background session:

- it gets a chunk whenever no live viewer is due and every live viewer has enough slack; several background sessions
  take turns. Without viewers it runs continuously; with as many viewers as the device can serve, it waits.
- admission counts its cache bytes like any other session's; while there is no room, ``open`` raises PafuError
  ``session_rejected`` (429, ``retry_after``).
- with ``past``, it continues at ``past.next_index``: indices, timestamps and pictures continue, the cache is rebuilt
  from the stored latents, and no chunk is generated twice. ``pictures`` remains the length of the whole video. Its
  fragments then omit ftyp and moov, which the file already has.
- interactions (``interact``) apply from the next chunk on, as in a live session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from server.engine.admission import Capacity
from server.ipc.messages import CacheChoice, Ended, Fragment, Interact, Open, Ready, Rejected
from server.states import EngineState, WorkerState

if TYPE_CHECKING:
    from server.telemetry.observer import Observer

SessionEvent = Fragment | Rejected | Ended


@dataclass(frozen=True)
class WorkerStatus:
    """The status of one worker; ``worker`` is its number, ``message`` says why it accepts no sessions."""

    worker: str
    device: str
    state: WorkerState
    message: str
    sessions: int
    restarts: int
    pid: int | None
    rss_bytes: int
    ready: Ready | None
    silent_seconds: float  # since its last message
    cache_held_bytes: int
    cache_room_bytes: int
    capacity: Capacity


@dataclass(frozen=True)
class EngineStatus:
    """The engine's status, for /readyz and /health. ``message`` says why the engine is not ready.

    ``capacity`` and ``max_sessions`` (None: unknown) cover all serving workers.
    """

    state: EngineState
    message: str
    workers: tuple[WorkerStatus, ...]
    capacity: Capacity
    max_sessions: int | None

    @property
    def sessions(self) -> int:
        return sum(worker.sessions for worker in self.workers)

    @property
    def cache_held_bytes(self) -> int:
        return sum(worker.cache_held_bytes for worker in self.workers)

    @property
    def cache_room_bytes(self) -> int:
        return sum(worker.cache_room_bytes for worker in self.workers)

    @property
    def ready(self) -> tuple[Ready, ...]:
        """The Ready message of every worker that has loaded its model."""
        return tuple(worker.ready for worker in self.workers if worker.ready is not None)


class EngineSession(Protocol):
    """A session on a worker, as the front sees it.

    The last event is ``Ended``; commands after that have no effect.
    """

    id: str
    mime: str
    init: bytes  # ftyp and moov of its fragments

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker's last message."""

    def events(self) -> AsyncIterator[SessionEvent]: ...
    async def interact(self, change: Interact) -> None: ...
    async def playhead(self, seconds: float) -> None: ...
    async def delivered(self, index: int) -> None: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def jpeg(self, wanted: bool) -> None: ...
    async def park(self, path: Path) -> None:
        """Write the state to a file and free the memory; the last event is ``Ended`` with reason "parked"."""

    async def finish(self) -> None: ...
    async def close(self) -> None: ...


class Engine(Protocol):
    """Places sessions on workers and reports to ``observer``, which it shares with the front."""

    observer: Observer

    async def start(self) -> None: ...
    async def stop(self, within: float) -> None:
        """Shut the workers down; kill them after ``within`` seconds. May be called again."""

    def status(self) -> EngineStatus: ...
    async def settled(self) -> None:
        """Wait until the engine is ready, failed or stopped."""

    def each_settled(self) -> AsyncIterator[WorkerStatus]:
        """Yield every worker once, when it first becomes ready or has failed."""

    async def wait_ready(self, timeout: float) -> None:
        """Wait until sessions can be opened. Raises PafuError not_ready, worker_failed or shutting_down."""

    def check(self, cache: CacheChoice) -> None:
        """Raises PafuError for a cache that no worker will ever take, before there is a session: cache_too_large, or
        invalid_message if the model lacks what the cache needs. Workers that were never ready have not told."""

    async def open(self, order: Open) -> EngineSession:
        """Open a session on a worker.

        Raises PafuError: session_rejected if there is no room now, cache_too_large if there never is, or the worker's
        error. A live session without room displaces background sessions: their events end with code "preempted", and
        their owners reopen them with their past when there is room.
        """

    def drain(self, worker: str) -> WorkerStatus:
        """Drain a worker, given by number or device, while the others serve.

        It gets no new sessions; its sessions move ("preempted") as others have room for them; then it stops. Raises
        PafuError not_found, or last_worker if no other worker serves.
        """

    async def undrain(self, worker: str) -> WorkerStatus:
        """Put a worker back into service, restarting it if it has stopped. Raises PafuError not_found."""

    async def room_changed(self, timeout: float) -> None:
        """Wait until free places may have changed, at most ``timeout`` seconds."""

    def cache_bytes(self, cache: CacheChoice) -> int:
        """The most memory that a session with this cache holds on any worker."""
