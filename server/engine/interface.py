"""Where workers live. The front asks an Engine and never knows whether it is local or far away.

A live session paces itself on its viewer: ``playhead`` and ``delivered`` feed the scheduler's playout clock. A
**background** session (a job) has no viewer and is opened by the same call::

    memory = ResumePoint(spec, cache)  # server.live.resume_point
    order = Open(session=job_id, background=True, pictures=160, lead_seconds=math.inf, past=None, ...)
    line = await engine.open(order)
    async for event in line.events():
        match event:
            case Fragment():  # one chunk; event.data is its m4s fragment, the first with ftyp and moov in front
                memory.add(event)  # event.past, event.camera: what another worker needs to go on after this chunk
                ...  # write the fragment and memory.past() where they survive
                await line.delivered(event.index)  # only then is the next chunk begun
            case Ended(reason="complete"): ...  # all pictures were made
            case Ended(code="worker_failed" | "preempted"): ...  # open again with past=memory.past()
            case Ended(code=str()): ...  # failed for good
    await line.close()  # at any time: the work stops before the next pass of the model, and its memory is free

What a background session may count on:

- it gets a chunk whenever no live viewer is due and its chunk leaves every live viewer enough slack; several take
  turns. With nobody watching it runs without a pause. With as many viewers as the device bears it stands still.
- it counts in admission with its cache's bytes like any other; ``open`` raises PafuError ``session_rejected`` (429,
  ``retry_after``) while there is no room.
- with ``past`` it goes on at ``past.next_index``: indices, timestamps and the picture sequence continue, the cache is
  filled again from the kept latents, no chunk is made twice. ``pictures`` stays the length of the whole video. Its
  fragments are then without ftyp and moov, since its file has them already.
- interactions (``interact``) count from the next chunk, as in a live session.
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
    """One worker. ``worker`` is its number, ``device`` where it is; ``message`` says why it takes no sessions."""

    worker: str
    device: str
    state: WorkerState
    message: str
    sessions: int
    restarts: int
    pid: int | None
    rss_bytes: int
    ready: Ready | None
    silent_seconds: float  # since its last sign of life
    cache_held_bytes: int
    cache_room_bytes: int
    capacity: Capacity


@dataclass(frozen=True)
class EngineStatus:
    """What /readyz and /health tell. ``message`` says why the engine is not ready; ``capacity`` and ``max_sessions``
    (None: not known yet) are of all workers that serve."""

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
        """What each worker said that has loaded its model."""
        return tuple(worker.ready for worker in self.workers if worker.ready is not None)


class EngineSession(Protocol):
    """A session's line to its worker. Events end with an ``Ended``; commands to a session that is over do nothing."""

    id: str
    mime: str
    init: bytes  # ftyp and moov of its fragments

    @property
    def silent_seconds(self) -> float:
        """Since the worker's last sign of life."""

    def events(self) -> AsyncIterator[SessionEvent]: ...
    async def interact(self, change: Interact) -> None: ...
    async def playhead(self, seconds: float) -> None: ...
    async def delivered(self, index: int) -> None: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def jpeg(self, wanted: bool) -> None: ...
    async def park(self, path: Path) -> None:
        """Write the state to a file and free the memory; the events end with ``Ended`` of reason "parked"."""

    async def finish(self) -> None: ...
    async def close(self) -> None: ...


class Engine(Protocol):
    """Places sessions on workers. What happens in them is told to ``observer``, which the front shares."""

    observer: Observer

    async def start(self) -> None: ...
    async def stop(self, within: float) -> None:
        """End the workers: politely, after ``within`` seconds by force. May be called again."""

    def status(self) -> EngineStatus: ...
    async def settled(self) -> None:
        """Return when the engine is ready, or has failed or stopped for good."""

    def each_settled(self) -> AsyncIterator[WorkerStatus]:
        """Every worker as it has become ready, or is given up, for the first time."""

    async def wait_ready(self, timeout: float) -> None:
        """Return when sessions can be opened. Raises PafuError not_ready or worker_failed."""

    async def open(self, order: Open) -> EngineSession:
        """Open a session on a worker.

        Raises PafuError: session_rejected when there is no room now, cache_too_large when there never is, or why the
        worker refused. A live session that finds no room displaces background ones: their events end with the code
        "preempted", and they open again with their past when there is room.
        """

    def drain(self, worker: str) -> WorkerStatus:
        """Take a worker, by its number or its device, out of service while the others serve: it gets no more
        sessions, those that it has move ("preempted") as others have room for them, and it ends behind the last.

        Raises PafuError: not_found, or last_worker when nobody would be left to serve.
        """

    async def undrain(self, worker: str) -> WorkerStatus:
        """Take it back, started again if it has ended. Raises PafuError not_found."""

    async def room_changed(self, timeout: float) -> None:
        """Return when a session has given up its place, or after ``timeout`` seconds."""

    def cache_bytes(self, cache: CacheChoice) -> int:
        """What a session with this cache holds of a worker's memory, at most."""
