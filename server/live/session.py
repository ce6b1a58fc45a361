"""The front's side of one live session, which outlives its connections and workers.

A session consists of its state (``SessionState``: viewers, changes, resume point), its files (``Persistence``) and its
state machine (``Life``). Connections and routes use ``LiveSession``.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from model.spec import ModelSpec
from server.access.limits import Permit
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import Fragment, Interact, Open
from server.live.archive import Archive, StoredSession, hashed
from server.live.audience import NEWEST, Notice, Subscriber
from server.live.journal import JournalStore
from server.live.life import Life, Phase
from server.live.persistence import Persistence
from server.live.session_state import SessionState
from server.live.waiting_room import WaitingRoom
from server.states import SessionStatus
from server.telemetry.observer import SessionMetrics

MOST_UNJOURNALLED = 8  # chunks a viewer may have received before they were journalled: regenerated, not resent


class LiveSession:
    """The interface of one live session. Every method may be called at any time."""

    def __init__(
        self,
        state: SessionState,
        waiting_room: WaitingRoom,
        archive: Archive,
        settings: Settings,
        file: JournalStore | None = None,
    ) -> None:
        """``file``: the journal of a stored session."""
        self._state, self._audience, self._settings = state, state.audience, settings
        self._files = Persistence(state.id, archive, state.record, file)
        self._life = Life(state, self._files, waiting_room, settings)
        self._unjournalled_end = 0  # the viewer may have chunks up to here that the journal lacks

    @classmethod
    def from_stored(
        cls, stored: StoredSession, room: WaitingRoom, archive: Archive, spec: ModelSpec, settings: Settings
    ) -> LiveSession:
        """The session as an earlier server stored it."""
        state = SessionState.from_stored(stored, spec)
        session = cls(state, room, archive, settings, stored.file)
        if stored.record.parked and not any(isinstance(entry, Fragment) for entry in stored.entries):
            session._files.parked()
        session._unjournalled_end = state.next_index + MOST_UNJOURNALLED
        return session

    def begin(self, counted: Permit, metrics: SessionMetrics, done: Callable[[LiveSession], None]) -> None:
        """Start the session. At its end, ``counted`` is released, then ``done`` is called."""
        self._life.begin(counted, metrics, lambda: done(self))

    # ---- properties

    @property
    def id(self) -> str:
        return self._state.id

    @property
    def caller(self) -> str:
        """Name of the caller's key."""
        return self._state.caller

    @property
    def watch_token(self) -> str:
        """A token that only allows watching; every server with the session derives the same one."""
        return hmac.new(self._state.token, b"watch", "sha256").hexdigest()[:32]

    @property
    def hls(self) -> str:
        """Path of the HLS playlist."""
        return f"/v1/live/{self.id}/hls/{self.watch_token}/live.m3u8"

    @property
    def order(self) -> Open:
        """The request that opened the session."""
        return self._state.order

    @property
    def created(self) -> float:
        """Seconds since the epoch."""
        return self._state.created

    @property
    def newest(self) -> Fragment | None:
        return self._state.newest

    @property
    def prompt(self) -> str:
        """Prompt of the newest chunk, or of the first before there is one."""
        return self._state.prompt

    @property
    def told(self) -> str:
        """What the model was told for the newest chunk: the prompt, and what it leaves open."""
        return self._state.told

    @property
    def next_index(self) -> int:
        """Index of the next chunk to generate."""
        return self._state.next_index

    @property
    def mime(self) -> str:
        return self._audience.mime

    @property
    def init(self) -> bytes:
        """ftyp and moov of the fragments; empty until a worker has opened the session."""
        return self._audience.init

    @property
    def owner(self) -> Subscriber | None:
        return self._audience.owner

    @property
    def viewers(self) -> int:
        return len(self._audience)

    @property
    def paused(self) -> bool:
        return self._audience.paused

    @property
    def idle(self) -> bool:
        """Whether it is paused or has no owner."""
        return self._audience.idle

    @property
    def idle_since(self) -> float:
        """Monotonic time since which it is idle; infinite while it is not."""
        return self._life.retention.idle_since

    @property
    def pending(self) -> list[str]:
        """Ids of the changes that are not in a chunk yet."""
        return [change.event_id for change in self._state.changes.pending]

    @property
    def on_device(self) -> bool:
        """Whether a worker holds memory for it."""
        return self._life.engine_session is not None

    @property
    def restartable(self) -> bool:
        """Whether another server can resume it after this one stops."""
        return self._files.outlives

    @property
    def waits_for_viewer(self) -> bool:
        """Whether generation waits because the owner's playhead does not advance."""
        return self._audience.holds_back(self.order.lead_seconds)

    @property
    def replay_bytes(self) -> int:
        """Encoded video that viewers may still need."""
        return self._audience.replay.nbytes

    @property
    def status(self) -> SessionStatus:
        if self._life.phase is Phase.ENDED:
            return SessionStatus.ENDED
        if not self.on_device:
            return SessionStatus.PARKED if self.idle and self._state.started else SessionStatus.WAITING
        if self.owner is None:
            return SessionStatus.SUSPENDED
        return SessionStatus.PAUSED if self.paused else SessionStatus.STREAMING

    def check_token(self, token: str) -> None:
        """Raises PafuError wrong_token."""
        check_token(token, self._state.token)

    def taken_over(self) -> bool:
        """Whether another server has taken the session. Blocking."""
        return self._files.taken_over()

    # ---- for connections

    async def own(self, format: str, last_chunk_index: int = -1) -> Subscriber:
        """Become the owner, continuing after ``last_chunk_index``. Raises PafuError chunk_gone."""
        first, replay = last_chunk_index + 1, self._audience.replay
        kept = self.next_index if replay.first is None else replay.first
        if not kept <= first <= max(self.next_index, self._unjournalled_end):
            reason = f"last_chunk_index is {last_chunk_index}; chunks {kept} to {self.next_index - 1} are kept"
            allowed = f"allowed: {kept - 1} to {self.next_index - 1}"
            raise PafuError("chunk_gone", f"{reason}, {allowed}; a larger index skips lost chunks", "last_chunk_index")
        received = [fragment.index for fragment in replay.fragments if fragment.index < first]
        owner = self._audience.own(format, first)
        if (engine_session := self._life.engine_session) is not None:
            for index in received:  # received, but the worker may not know it yet
                await engine_session.delivered(index)
        await self._life.settle(rejoined=True)
        return owner

    async def watch(self, format: str, first: int = NEWEST) -> Subscriber:
        """Add a watcher, which starts with chunk ``first`` or the oldest later one that is kept."""
        watcher = self._audience.watch(format, first)
        await self._life.settle()
        return watcher

    def dismiss(self, subscriber: Subscriber, why: PafuError | None = None) -> None:
        """Disconnect a viewer: a watcher who stopped, or one refused for ``why``. The session continues."""
        subscriber.notices.append(why or self._life.over("stopped"))
        self._audience.publish()

    async def leave(self, subscriber: Subscriber) -> None:
        """The viewer's connection is closed."""
        if self._audience.leave(subscriber):
            await self._life.settle()

    async def next(self, subscriber: Subscriber) -> Notice | Fragment:
        """Wait for the next notice or chunk for this viewer."""
        return await self._audience.next(subscriber)

    async def delivered(self, subscriber: Subscriber, fragment: Fragment) -> None:
        """A chunk was sent to a viewer; only the owner's progress counts."""
        if subscriber.owner:
            self._audience.delivered(fragment)
            if (engine_session := self._life.engine_session) is not None:
                await engine_session.delivered(fragment.index)

    async def playhead(self, seconds: float) -> None:
        """The owner reports its playhead, in media seconds."""
        self._audience.played_to(seconds)
        if (engine_session := self._life.engine_session) is not None:
            await engine_session.playhead(seconds)

    async def expect(self, change: Interact) -> None:
        """Accept and journal a change, which then waits for its chunk. Raises PafuError."""
        if self.restartable:
            raise PafuError("shutting_down", "the server is shutting down; resume the session, then send this again")
        self._state.changes.check(change.event_id, self._settings.max_pending_interactions)
        self._state.changes.add(change)
        await self._files.add(change)

    async def hand_over_changes(self) -> None:
        """Send the worker the changes that it does not have yet; without a worker they wait for the next."""
        await self._life.hand_over_changes()

    async def pause(self, paused: bool) -> None:
        """Pause the session, or continue it."""
        self._audience.paused = paused
        await self._life.settle()

    # ---- for the server

    async def stop(self) -> None:
        """End after the current chunk."""
        await self._life.stop()

    async def park(self) -> None:
        """Write the state to disk and free the device."""
        await self._life.park()

    def expire(self) -> None:
        """End a session whose viewer did not come back in time."""
        self._life.expire()

    async def outlive(self) -> None:
        """At server shutdown: store the session so that another server can resume it, and end it here."""
        await self._life.outlive()


def check_token(token: str, hash: bytes) -> None:
    """Raises PafuError wrong_token."""
    if not hmac.compare_digest(hashed(token), hash):
        raise PafuError("wrong_token", "this is not the session's resume token", "token")


def new_token() -> str:
    """A secret that lets its holder resume the session."""
    return secrets.token_urlsafe(24)
