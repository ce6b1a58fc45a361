"""One live session, front side: what goes on while viewers come and go and workers die.

A session is its state (``SessionState``: viewers, changes, resume point), its files (``Persistence``) and its life
(``Life``, the state machine). ``LiveSession`` is what connections and routes see.
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
from server.live.archive import Archive, Left, hashed
from server.live.audience import Notice, Subscriber
from server.live.journal import JournalStore
from server.live.life import Life, Phase
from server.live.persistence import Persistence
from server.live.session_state import SessionState
from server.live.waiting_room import WaitingRoom
from server.states import SessionStatus
from server.telemetry.observer import SessionMetrics

MOST_UNJOURNALLED = 8  # chunks a viewer may have received before they were journalled; regenerate, do not resend


class LiveSession:
    """Every method may be called at any time."""

    def __init__(
        self,
        state: SessionState,
        waiting_room: WaitingRoom,
        archive: Archive,
        settings: Settings,
        file: JournalStore | None = None,
    ) -> None:
        """``file``: the journal that the session was found in."""
        self._state, self._audience, self._settings = state, state.audience, settings
        self._files = Persistence(state.id, archive, state.record, file)
        self._life = Life(state, self._files, waiting_room, settings)
        self._unjournalled_end = 0  # chunks before this one may be missing here, though the viewer has them

    @classmethod
    def revived(
        cls, left: Left, room: WaitingRoom, archive: Archive, spec: ModelSpec, settings: Settings
    ) -> LiveSession:
        """The session as an earlier server left it on disk."""
        state = SessionState.left_behind(left, spec)
        session = cls(state, room, archive, settings, left.file)
        if left.record.parked and not any(isinstance(entry, Fragment) for entry in left.entries):
            session._files.parked()
        session._unjournalled_end = state.next_index + MOST_UNJOURNALLED
        return session

    def begin(self, counted: Permit, metrics: SessionMetrics, done: Callable[[LiveSession], None]) -> None:
        """Start its life; ``counted`` is released at its end, and ``done`` is called after that."""
        self._life.begin(counted, metrics, lambda: done(self))

    # ---- what it is

    @property
    def id(self) -> str:
        return self._state.id

    @property
    def caller(self) -> str:
        """Name of the key that began it."""
        return self._state.caller

    @property
    def order(self) -> Open:
        """What began it."""
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
        """What the newest chunk shows, or the first will."""
        return self._state.prompt

    @property
    def next_index(self) -> int:
        """Index of the chunk that will be made next."""
        return self._state.next_index

    @property
    def mime(self) -> str:
        return self._audience.mime

    @property
    def init(self) -> bytes:
        """ftyp and moov of its fragments; empty until a worker has opened it."""
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
        """Nobody wants a picture."""
        return self._audience.idle

    @property
    def idle_since(self) -> float:
        """Monotonic; infinite while somebody wants pictures."""
        return self._life.retention.idle_since

    @property
    def pending(self) -> list[str]:
        """Ids of the changes that no chunk has shown."""
        return [change.event_id for change in self._state.changes.pending]

    @property
    def on_device(self) -> bool:
        """Whether it holds memory of a worker."""
        return self._life.line is not None

    @property
    def restartable(self) -> bool:
        """Its files outlive the server."""
        return self._files.outlives

    @property
    def waits_for_viewer(self) -> bool:
        """Nothing is made because the owner plays nothing."""
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
        """Whether another server goes on with it. Blocking."""
        return self._files.taken_over()

    # ---- what viewers do

    async def own(self, format: str, last_chunk_index: int = -1) -> Subscriber:
        """Become the owner, after the last chunk that was received whole. Raises PafuError chunk_gone."""
        first, replay = last_chunk_index + 1, self._audience.replay
        kept = self.next_index if replay.first is None else replay.first
        if not kept <= first <= max(self.next_index, self._unjournalled_end):
            reason = f"last_chunk_index is {last_chunk_index}; chunks {kept} to {self.next_index - 1} are kept"
            allowed = f"allowed is {kept - 1} to {self.next_index - 1}"
            raise PafuError(
                "chunk_gone", f"{reason}, so {allowed}; a larger one skips what is lost", "last_chunk_index"
            )
        received = [fragment.index for fragment in replay.fragments if fragment.index < first]
        owner = self._audience.own(format, first)
        if (line := self._life.line) is not None:
            for index in received:  # whole, although the connection broke before the worker heard of it
                await line.delivered(index)
        await self._life.settle(rejoined=True)
        return owner

    async def watch(self, format: str) -> Subscriber:
        """Watch, from the newest chunk on."""
        watcher = self._audience.watch(format)
        await self._life.settle()
        return watcher

    def dismiss(self, subscriber: Subscriber, why: PafuError | None = None) -> None:
        """A watcher has seen enough, or a viewer may stay no longer; the session goes on."""
        subscriber.notices.append(why or self._life.over("stopped"))
        self._audience.publish()

    async def leave(self, subscriber: Subscriber) -> None:
        """The viewer is gone."""
        if self._audience.leave(subscriber):
            await self._life.settle()

    async def next(self, subscriber: Subscriber) -> Notice | Fragment:
        """What the viewer is to be sent next, waiting for it."""
        return await self._audience.next(subscriber)

    async def delivered(self, subscriber: Subscriber, fragment: Fragment) -> None:
        """The viewer was sent a chunk; only the owner's progress counts."""
        if subscriber.owner:
            self._audience.delivered(fragment)
            if (line := self._life.line) is not None:
                await line.delivered(fragment.index)

    async def playhead(self, seconds: float) -> None:
        """The owner shows the picture at this media time."""
        self._audience.played_to(seconds)
        if (line := self._life.line) is not None:
            await line.playhead(seconds)

    async def expect(self, change: Interact) -> None:
        """Accept a change: it waits for its chunk from now on, also in the next server. Raises PafuError."""
        if self.restartable:
            raise PafuError("shutting_down", "the server is shutting down; ask again when you have resumed the session")
        self._state.changes.check(change.event_id, self._settings.max_pending_interactions)
        self._state.changes.add(change)
        await self._files.add(change)

    async def hand_over_changes(self) -> None:
        """Send the worker the changes that it does not have yet; without a worker they wait for the next."""
        await self._life.hand_over_changes()

    async def pause(self, paused: bool) -> None:
        """Stand still, or go on."""
        self._audience.paused = paused
        await self._life.settle()

    # ---- what the server does

    async def stop(self) -> None:
        """End after the chunk in hand."""
        await self._life.stop()

    async def park(self) -> None:
        """Free the device: the state goes to disk."""
        await self._life.park()

    def expire(self) -> None:
        """Nobody came back in time."""
        self._life.expire()

    async def outlive(self) -> None:
        """The server stops: leave the session on disk so that it can be resumed from another, and end it here."""
        await self._life.outlive()


def check_token(token: str, hash: bytes) -> None:
    """Raises PafuError wrong_token."""
    if not hmac.compare_digest(hashed(token), hash):
        raise PafuError("wrong_token", "this is not the session's resume token", "token")


def new_token() -> str:
    """What lets its holder, and nobody else, take the session up again."""
    return secrets.token_urlsafe(24)
