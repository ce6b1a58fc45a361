"""One live session, front side: what goes on while viewers come and go and workers die.

The session owns its line to a worker, what is needed to begin again elsewhere (``Memory``), the chunks that its viewer
has not seen (``Replay``), and the changes that wait for a chunk. Viewers hold a ``Place`` each: the owner paces and
steers, the others look on. Without an owner, or paused, nothing is generated; after a while the state goes to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from model.spec import ModelSpec
from server.access.limits import Hold
from server.config import Settings
from server.engine.interface import EngineSession
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Interact, Open, Rejected
from server.live.archive import FORMAT, Archive, Left, Record, hashed
from server.live.replay import Replay
from server.live.resume_point import Memory
from server.live.waiting_room import Queue
from server.states import SessionStatus
from server.telemetry import logs
from server.telemetry.observer import SessionFigures

log = logging.getLogger("pafu.live")

MAX_DEATHS = 3  # of workers in a row under one session, with less than two chunks between them
PARK_WITHIN = 30.0
MOST_LOST = 8  # chunks that a viewer may have and a killed server not yet on disk: they are made again, and not sent


@dataclass(frozen=True)
class Queued:
    """The session waits for a place; ``position`` is 1 for the next."""

    position: int
    depth: int


@dataclass(frozen=True)
class Interrupted:
    """The worker was lost; the stream goes on in another one."""

    reason: str


@dataclass(frozen=True)
class Taken:
    """Another connection resumed the session; this one is not its viewer any more."""


@dataclass(frozen=True)
class Opened:
    """The line to a worker stands; sent once to each viewer, before its first chunk."""


Notice = Queued | Interrupted | Taken | Opened | Rejected | Ended | PafuError


@dataclass(eq=False)
class Place:
    """One viewer at a session: where it stands and what it has to be told."""

    owner: bool
    format: str
    cursor: int  # index of the chunk to send next; -1 for whatever is newest
    opened: bool = False
    notices: deque[Notice] = field(default_factory=deque)


class LiveSession:
    """See the module. ``run`` is its life; every other method may be called at any time."""

    def __init__(
        self,
        order: Open,
        token: bytes,
        caller: str,
        queue: Queue,
        archive: Archive,
        spec: ModelSpec,
        settings: Settings,
    ) -> None:
        """``caller``: the name of the key that began it; to any other it does not exist."""
        self.id = order.session
        self.caller = caller
        self.order = order
        self.created = time.time()
        self.idle_since = math.inf  # monotonic; infinite while somebody wants pictures
        self.mime, self.init = "", b""
        self.token = token
        self.paused = False
        self.newest: Fragment | None = None
        self.end: Ended | PafuError | None = None
        self.restartable = False  # its files outlive the server
        self._queue, self._archive, self._spec, self._settings = queue, archive, spec, settings
        self._memory = Memory(spec, order.cache)
        self._replay = Replay(spec.fps)
        self._places: list[Place] = []
        self._pending: dict[str, Interact] = {}
        self._in_force = dict(order.in_force)
        self._line: EngineSession | None = None
        self._snapshot: str | None = None
        self._parking = False
        self._held = False  # the worker was told to make nothing
        self._stopped = False  # somebody asked for the end; whatever dies meanwhile, it does not go on
        self._delivered = 0.0  # media time that was sent to the owner
        self._reported: float | None = None
        self._deaths, self._chunks_since_death = 0, 0
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._queued: Queued | None = None
        self._running: asyncio.Task[None] | None = None
        self._figures: SessionFigures | None = None
        self._counted: Hold | None = None  # its place among its caller's sessions, until it ends
        self._journal = archive.journal(self.id, self._record)
        self._lost = 0  # chunks before this one may be missing here, though the viewer has them

    @classmethod
    def revived(cls, left: Left, queue: Queue, archive: Archive, spec: ModelSpec, settings: Settings) -> LiveSession:
        """The session as a server before this one left it on disk."""
        record = left.record
        session = cls(record.order, record.token, record.caller, queue, archive, spec, settings)
        session.created = record.created
        session.mime, session.init = record.mime, record.init
        if record.past is not None:
            session._memory.resume(record.past)
        session._replay = Replay(spec.fps, record.replay_begins)
        session._delivered = record.replay_begins
        for fragment in record.replay:
            session._replay.add(fragment)
        session.newest = session._replay.newest
        session._pending = {change.event_id: change for change in record.pending}
        for entry in left.entries:
            session._absorb(entry)
        if record.parked and not any(isinstance(entry, Fragment) for entry in left.entries):
            session._snapshot = str(archive.snapshot(session.id))
        session._journal = archive.journal(session.id, session._record, left.file)
        session._lost = session.next_index + MOST_LOST
        return session

    # ---- what viewers do

    @property
    def owner(self) -> Place | None:
        return next((place for place in self._places if place.owner), None)

    @property
    def next_index(self) -> int:
        """Index of the chunk that will be made next."""
        return self._memory.next_index

    @property
    def viewers(self) -> int:
        return len(self._places)

    @property
    def idle(self) -> bool:
        """Nobody wants a picture."""
        return self.owner is None or self.paused

    def check_token(self, token: str) -> None:
        """Raises PafuError wrong_token."""
        if not hmac.compare_digest(hashed(token), self.token):
            raise PafuError("wrong_token", "this is not the session's resume token", "token")

    async def own(self, format: str, last_chunk_index: int = -1) -> Place:
        """Become the owner, behind the last chunk that was received whole. Raises PafuError chunk_gone."""
        first = last_chunk_index + 1
        kept = self.next_index if self._replay.first is None else self._replay.first
        if not kept <= first <= max(self.next_index, self._lost):
            reason = f"last_chunk_index is {last_chunk_index}; chunks {kept} to {self.next_index - 1} are kept"
            allowed = f"allowed is {kept - 1} to {self.next_index - 1}"
            raise PafuError(
                "chunk_gone", f"{reason}, so {allowed}; a larger one skips what is lost", "last_chunk_index"
            )
        if before := self.owner:
            before.notices.append(Taken())
            self._places.remove(before)
        self.paused, self._held, self._reported = False, True, None
        self._delivered = max(self._replay.begins, self._replay.ends_at(last_chunk_index))
        if self._line is not None:  # what came whole though its connection broke in the end
            for fragment in self._replay.fragments:
                if fragment.index < first:
                    await self._line.delivered(fragment.index)
        self._replay.seen(self._delivered)
        place = Place(owner=True, format=format, cursor=first)
        self._places.append(place)
        await self._settle()
        return place

    async def watch(self, format: str) -> Place:
        """Look on, from the newest chunk."""
        place = Place(owner=False, format=format, cursor=-1)
        self._places.append(place)
        await self._settle()
        return place

    def dismiss(self, place: Place, why: PafuError | None = None) -> None:
        """One who looks on has seen enough, or a viewer may stay no longer; the session goes on."""
        place.notices.append(why or self._over("stopped"))
        self._publish()

    async def leave(self, place: Place) -> None:
        """The viewer is gone."""
        if place in self._places:
            self._places.remove(place)
            await self._settle()

    async def next(self, place: Place) -> Notice | Fragment:
        """What the viewer is to be sent next, waiting for it."""
        while True:
            if place.notices:
                return place.notices.popleft()
            if not place.opened and self.init:
                place.opened = True
                return Opened()
            if place.opened and (fragment := self._fragment_for(place)):
                place.cursor = fragment.index + 1
                return fragment
            if self.end is not None:
                return self.end
            await self._news.wait()

    def _fragment_for(self, place: Place) -> Fragment | None:
        if place.cursor < 0:
            fragment = self._replay.newest
        else:
            fragment = self._replay.at(place.cursor)
        if fragment is not None and place.format == "jpeg" and not fragment.jpegs:
            place.cursor = fragment.index + 1  # it was made before anybody wanted JPEG
            return self._replay.at(place.cursor)
        return fragment

    async def delivered(self, place: Place, fragment: Fragment) -> None:
        """The owner was sent a chunk; one that reports no playhead is taken to have seen it."""
        if not place.owner:
            return
        self._delivered = max(self._delivered, self._replay.ends_at(fragment.index))
        if self._reported is None:
            self._seen(self._delivered)
        if self._line is not None:
            await self._line.delivered(fragment.index)

    async def playhead(self, seconds: float) -> None:
        """The owner shows the picture at this media time."""
        self._reported = seconds
        self._seen(min(seconds, self._delivered))
        if self._line is not None:
            await self._line.playhead(seconds)

    def _seen(self, seconds: float) -> None:
        """Drop what the owner has behind it; the newest chunk stays for those who look on and are a little late."""
        self._replay.seen(seconds, keep=int(len(self._places) > 1))

    @property
    def waits_for_viewer(self) -> bool:
        """Nothing is made because the owner plays nothing."""
        return self._reported is not None and self._replay.seconds >= self.order.lead_seconds

    async def expect(self, change: Interact) -> None:
        """A change waits for its chunk from now on, also in the next server. Raises PafuError when it cannot."""
        most = self._settings.max_pending_interactions
        if self.restartable:
            raise PafuError("shutting_down", "the server is shutting down; ask again when you have resumed the session")
        if change.event_id in self._pending:
            reason = f"event_id {change.event_id!r} still waits for its chunk; use a new id for every event"
            raise PafuError("event_id_conflict", reason, "interaction.event_id")
        if len(self._pending) >= most:
            raise PafuError("too_many_interactions", f"{most} changes wait for the next chunk already; send fewer")
        self._pending[change.event_id] = change
        await self._journal.add(change)

    async def interact(self, change: Interact) -> None:
        """Hand an expected change to the worker; when there is none just now, it waits for the next."""
        if self._line is not None:
            await self._line.interact(change)

    @property
    def pending(self) -> list[str]:
        """Ids of the changes that wait."""
        return list(self._pending)

    async def pause(self, paused: bool) -> None:
        """Stand still, or go on."""
        self.paused = paused
        await self._settle()

    async def stop(self) -> None:
        """End behind the chunk in hand."""
        self._stopped = True
        if self._line is not None:
            await self._line.finish()
        else:
            self._finish(self._over("stopped"))

    def _over(self, reason: str) -> Ended:
        return Ended(session=self.id, chunks=self.next_index, reason=reason, code=None, message="")

    # ---- its life

    def begin(self, counted: Hold, figures: SessionFigures, done: Callable[[LiveSession], None]) -> None:
        """Start ``run``; ``counted`` is released at its end, and ``done`` is called behind that."""
        self._counted, self._figures = counted, figures
        self._running = asyncio.create_task(self._run(), name=self.id)
        self._running.add_done_callback(lambda _: done(self))
        self._start_keeping()

    async def _run(self) -> None:
        with logs.about(session_id=self.id):
            try:
                await self._live()
            finally:
                await self._close_files()

    async def _close_files(self) -> None:
        if not self.restartable:
            self._archive.drop_snapshot(self.id)
        await self._journal.end(keep=self.restartable)

    async def _live(self) -> None:
        try:
            while self.end is None:
                await self._wanted.wait()
                if (line := await self._open_or_wait()) is None:
                    continue
                try:  # from here on the worker keeps a place for it, whatever ends it
                    await self._move_in(line)
                    ended = await self._relay(line)
                finally:
                    self._line = None
                    await line.close()
                await self._after(ended)
                self._parking = False
                self._publish()
        except PafuError as error:
            self._finish(error)
        except asyncio.CancelledError:
            self._finish(self._over("stopped"))
        except Exception:
            log.exception("%s failed", self.id)
            self._finish(PafuError("internal_error", "the server made a mistake; it is in its log"))

    async def _open_or_wait(self) -> EngineSession | None:
        """A line to a worker. None when there is none now for what has begun already: its owner is told to come back
        later, and it waits as before. Raises PafuError."""
        try:
            return await self._open()
        except PafuError as error:
            owner = self.owner
            if self._memory.past() is None or not error.kind.retryable:
                raise
            log.info("%s waits on: %s", self.id, error.message)
            self._wanted.clear()
            if owner is not None:
                owner.notices.append(error)
            self._publish()
            return None

    async def _open(self) -> EngineSession:
        """A line to a worker."""
        started = self._memory.past() is not None
        try:
            line = await self._queue.place(self._current_order(), started, self._told_position)
        except PafuError as error:
            if self._snapshot is None or error.kind.retryable:
                raise
            log.warning("%s: its snapshot cannot be used (%s); its latents are", self.id, error.message)
            self._snapshot = None
            line = await self._queue.place(self._current_order(), started, self._told_position)
        return line

    async def _move_in(self, line: EngineSession) -> None:
        """Bring the line everything that the session was."""
        self._queued = None
        self.mime, self.init, self._line = line.mime, line.init, line
        if self._figures is not None:
            self._figures.placed()
        self._snapshot = None
        self._archive.drop_snapshot(self.id)
        if self._reported is not None:
            await line.playhead(self._reported)
        for change in list(self._pending.values()):
            await line.interact(change)
        self._held = self.idle
        if self._held:
            await line.pause()
        self._publish()
        await self._journal.begin()

    def _current_order(self) -> Open:
        prompt = self.newest.prompt if self.newest is not None else self.order.prompt
        jpeg = any(place.format == "jpeg" for place in self._places)
        state = {"past": self._memory.past(), "snapshot": self._snapshot, "in_force": dict(self._in_force)}
        return msgspec.structs.replace(self.order, prompt=prompt, jpeg=jpeg, **state)

    def _told_position(self, position: int, depth: int) -> None:
        if self._queued != Queued(position, depth):
            self._queued = Queued(position, depth)
            self._tell(self._queued)

    async def _relay(self, line: EngineSession) -> Ended:
        """Take in what the worker makes, until the line ends."""
        async for event in line.events():
            match event:
                case Fragment():
                    await self._journal.add(event)
                    await self._take(event, line)
                case Rejected():
                    await self._journal.add(event)
                    self._absorb(event)
                    self._tell(event)
                case Ended():
                    return event
        raise AssertionError("a line's events end with Ended")

    async def _take(self, fragment: Fragment, line: EngineSession) -> None:
        self._absorb(fragment)
        self._chunks_since_death += 1
        self._publish()
        self._journal.settle()
        if (owner := self.owner) is not None and fragment.index < owner.cursor:  # the owner has it from before a kill
            await line.delivered(fragment.index)

    def _absorb(self, entry: Fragment | Interact | Rejected) -> None:
        """Become what the session is behind this."""
        match entry:
            case Interact():
                self._pending[entry.event_id] = entry
            case Rejected():
                self._pending.pop(entry.event_id, None)
            case Fragment():
                self._absorb_chunk(entry)

    def _absorb_chunk(self, fragment: Fragment) -> None:
        for event_id in fragment.started:
            if change := self._pending.pop(event_id, None):
                self._in_force[event_id] = change.chunks
        self._in_force = {name: left - 1 for name, left in self._in_force.items() if left > 1}
        self._memory.add(fragment)
        if fragment.index == 0:  # a joining viewer gets the head from us
            fragment = msgspec.structs.replace(fragment, data=fragment.data.removeprefix(self.init))
        self._replay.add(fragment)
        self.newest = self._replay.newest

    async def _after(self, ended: Ended) -> None:
        """Go on, wait on disk, or be over, as the line's end demands."""
        lost = ended.code in ("worker_failed", "preempted")
        if self._stopped and (lost or ended.reason == "parked"):
            return self._finish(self._over("stopped"))
        if ended.reason == "parked":
            return await self._parked(ended)
        if not lost:
            return self._finish(ended)
        if self._chunks_since_death > 1:
            self._deaths = 0
        self._deaths, self._chunks_since_death = self._deaths + 1, 0
        if self._deaths >= MAX_DEATHS:
            reason = f"{ended.message}, {MAX_DEATHS} times in a row; start a new session"
            return self._finish(msgspec.structs.replace(ended, message=reason))
        log.warning("%s goes on in another worker from chunk %d: %s", self.id, self.next_index, ended.message)
        self._tell(Interrupted(ended.message))

    def _finish(self, end: Ended | PafuError) -> None:
        if self.end is None:
            self.end = end
            if self._counted is not None:
                self._counted.release()
            if self._figures is not None:
                reason = end.kind.code if isinstance(end, PafuError) else end.code or end.reason
                self._figures.over(reason, self.newest)
            log.info("%s: %s", self.id, end.message if isinstance(end, PafuError) else end.message or end.reason)
        self._wanted.set()
        if self._keeper is not None and self._keeper is not asyncio.current_task():
            self._keeper.cancel()
        if self._running is not None and self._running is not asyncio.current_task():
            self._running.cancel()
        self._publish()

    # ---- while nobody looks

    async def _settle(self) -> None:
        """Follow a change of who looks on."""
        self._publish()
        if self.end is not None:
            return
        if self._line is not None:
            await self._line.jpeg(any(place.format == "jpeg" for place in self._places))
        if not self.idle:
            self.idle_since = math.inf
            self._stop_keeping()
            self._wanted.set()
            if self._line is not None and self._held:
                self._held = False
                await self._line.resume()
            return
        self.idle_since = min(self.idle_since, time.monotonic())
        self._wanted.clear()
        if self._line is not None:
            self._held = True
            await self._line.pause()
        self._start_keeping()

    def _start_keeping(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name=f"{self.id}-keeper")

    def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def _keep(self) -> None:
        """First on the device, then on disk, then no more; a session that never showed anything is not kept."""
        settings = self._settings
        if self._memory.past() is None and self.owner is None:
            return self.expire()
        await asyncio.sleep(settings.keep_on_device)
        if settings.keep_on_disk:
            await self.park()
            while self.owner is not None:  # it is paused: its file must not become old
                await asyncio.sleep(settings.keep_on_disk / 2)
                self._journal.touch()
            await asyncio.sleep(settings.keep_on_disk)
        if self.owner is None:
            self.expire()

    def expire(self) -> None:
        """Nobody came back in time."""
        self._finish(PafuError("expired", "nobody came back for the session in time; start a new one"))

    @property
    def on_device(self) -> bool:
        """Whether it holds memory of a worker."""
        return self._line is not None

    async def park(self) -> None:
        """Free the device: the state goes to disk. Returns when it is there (or could not be written)."""
        line = self._line
        if line is None:
            return
        self._wanted.clear()
        self._parking = True
        await line.park(self._archive.snapshot(self.id))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARK_WITHIN):
                while self._parking and self.end is None:
                    await self._news.wait()

    async def _parked(self, ended: Ended) -> None:
        if ended.code is None:
            self._snapshot = str(self._archive.snapshot(self.id))
        else:
            log.warning("%s: its state could not be written (%s); its latents are kept", self.id, ended.message)
        await self._journal.begin()
        if not self.idle and not self.restartable:
            self._wanted.set()

    def _record(self) -> Record:
        return Record(
            format=FORMAT,
            order=msgspec.structs.replace(self._current_order(), past=None, snapshot=None),
            token=self.token,
            past=self._memory.past(),
            mime=self.mime,
            init=self.init,
            replay_begins=self._replay.begins,
            replay=self._replay.fragments,
            pending=list(self._pending.values()),
            parked=self._snapshot is not None,
            created=self.created,
            caller=self.caller,
        )

    async def outlive(self) -> None:
        """The server stops: put the session to disk so that it can be resumed from another, and end it here.

        First what the front has, which is little and enough; then, with the time that is left, the exact state.
        """
        try:
            if self._memory.past() is not None and self._settings.keep_on_disk:
                self.restartable = True
                await self._journal.begin()
                await self.park()
        finally:  # also when there is no time for more; its viewer hears of it when another server may have it
            await self._journal.end(keep=self.restartable)
            self._finish(self._over("server_shutdown"))

    # ---- telling

    @property
    def status(self) -> SessionStatus:
        if self.end is not None:
            return SessionStatus.ENDED
        if self._line is None:
            return SessionStatus.PARKED if self.idle and self._memory.past() is not None else SessionStatus.WAITING
        if self.owner is None:
            return SessionStatus.SUSPENDED
        return SessionStatus.PAUSED if self.paused else SessionStatus.STREAMING

    @property
    def replay_bytes(self) -> int:
        """Encoded video held for viewers."""
        return self._replay.nbytes

    def _tell(self, notice: Notice) -> None:
        for place in self._places:
            if place.owner or not isinstance(notice, Rejected):
                place.notices.append(notice)
        self._publish()

    def _publish(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def new_token() -> str:
    """What lets its holder, and nobody else, take the session up again."""
    return secrets.token_urlsafe(24)
