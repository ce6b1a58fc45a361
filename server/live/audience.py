"""The subscribers of one session, what each still has to receive, and the owner's playhead.

The owner paces and steers the session. Watchers receive its chunks, starting with the newest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from server.errors import PafuError
from server.ipc.messages import Ended, Fragment, Rejected
from server.live.replay import Replay


@dataclass(frozen=True)
class Queued:
    """The session waits for a worker. ``position`` 1 is next; ``seconds`` is the estimated wait, if known."""

    position: int
    depth: int
    seconds: float | None = None


@dataclass(frozen=True)
class Interrupted:
    """The worker was lost; the stream continues on another one."""

    reason: str


@dataclass(frozen=True)
class TakenOver:
    """Another connection resumed the session, so this one is no longer its owner."""


@dataclass(frozen=True)
class Opened:
    """A worker has opened the session; sent once to each subscriber, before its first chunk."""


Notice = Queued | Interrupted | TakenOver | Opened | Rejected | Ended | PafuError
NEWEST = -1  # cursor value: send whatever chunk is newest


@dataclass(eq=False)
class Subscriber:
    """One viewer of a session; ``cursor`` and ``notices`` are what it receives next."""

    owner: bool
    format: str
    cursor: int  # index of the chunk to send next, or NEWEST
    opened: bool = False
    notices: deque[Notice] = field(default_factory=deque)


class Audience:
    """The subscribers and the chunks that they may still need."""

    def __init__(self, replay: Replay, jpeg: bool = False) -> None:
        """``jpeg``: an owner who comes back will want JPEG."""
        self.replay = replay
        self._owner_jpeg = jpeg
        self.mime, self.init = "", b""  # empty until a worker has opened the session
        self.end: Ended | PafuError | None = None
        self.paused = False
        self._subscribers: list[Subscriber] = []
        self._news = asyncio.Event()
        self._sent = replay.begins  # media seconds sent to the owner
        self._playhead: float | None = None  # reported by the owner

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def owner(self) -> Subscriber | None:
        return next((each for each in self._subscribers if each.owner), None)

    @property
    def idle(self) -> bool:
        """Nothing has to be generated: the session is paused or has no owner."""
        return self.paused or self.owner is None

    @property
    def wants_jpeg(self) -> bool:
        """Whether somebody watches as JPEG, or did and may resume: a chunk that is under way must not be lost."""
        away = self._owner_jpeg and self.owner is None
        return away or any(each.format == "jpeg" for each in self._subscribers)

    @property
    def playhead(self) -> float | None:
        """The owner's playhead in seconds; None if it never reported one."""
        return self._playhead

    def own(self, format: str, first: int) -> Subscriber:
        """Add an owner, which replaces the present one. It has played all chunks before ``first``."""
        if before := self.owner:
            before.notices.append(TakenOver())
            self._subscribers.remove(before)
        self.paused, self._playhead = False, None
        self._sent = max(self.replay.begins, self.replay.ends_at(first - 1))
        self.replay.seen(self._sent)
        self._owner_jpeg = format == "jpeg"
        return self._join(Subscriber(owner=True, format=format, cursor=first))

    def watch(self, format: str, first: int = NEWEST) -> Subscriber:
        """Add a watcher, which starts with chunk ``first`` or the oldest later one that is kept."""
        return self._join(Subscriber(owner=False, format=format, cursor=first))

    def _join(self, subscriber: Subscriber) -> Subscriber:
        self._subscribers.append(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; whether it was present."""
        there = subscriber in self._subscribers
        if there:
            self._subscribers.remove(subscriber)
        return there

    # ---- notices and chunks

    def tell(self, notice: Notice) -> None:
        """Notify all subscribers; a Rejected goes to the owner only."""
        for each in self._subscribers:
            if each.owner or not isinstance(notice, Rejected):
                each.notices.append(notice)
        self.publish()

    def publish(self) -> None:
        """Wake everyone waiting in ``news``."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        """Wait for the next ``publish``."""
        await self._news.wait()

    async def next(self, subscriber: Subscriber) -> Notice | Fragment:
        """Wait for the next notice or chunk for this subscriber."""
        while True:
            if subscriber.notices:
                return subscriber.notices.popleft()
            if not subscriber.opened and self.init:
                subscriber.opened = True
                return Opened()
            if subscriber.opened and (fragment := self._fragment_for(subscriber)):
                subscriber.cursor = fragment.index + 1
                return fragment
            if self.end is not None:
                return self.end
            await self.news()

    def _fragment_for(self, subscriber: Subscriber) -> Fragment | None:
        if subscriber.cursor == NEWEST:
            fragment = self.replay.newest
        else:
            fragment = self.replay.at(subscriber.cursor)
        while fragment is not None and subscriber.format == "jpeg" and not fragment.jpegs:
            subscriber.cursor = fragment.index + 1  # generated before anyone requested JPEG
            if subscriber.owner:
                self.delivered(fragment)  # else generation would wait for it to be played
            fragment = self.replay.at(subscriber.cursor)
        return fragment

    # ---- the owner's progress

    def delivered(self, fragment: Fragment) -> None:
        """The owner received a chunk. If it never reports a playhead, assume that it has played it."""
        self._sent = max(self._sent, self.replay.ends_at(fragment.index))
        if self._playhead is None:
            self._played(self._sent)

    def played_to(self, seconds: float) -> None:
        """The owner reported its playhead."""
        self._playhead = seconds
        self._played(min(seconds, self._sent))

    def _played(self, seconds: float) -> None:
        """Drop chunks that the owner has played. With watchers, who may be late, keep the newest one."""
        self.replay.seen(seconds, keep=int(len(self._subscribers) > 1))

    def holds_back(self, lead_seconds: float) -> bool:
        """Whether generation waits because the reported playhead does not advance."""
        if self._playhead is None:
            return False
        return self.replay.ends - min(self._playhead, self._sent) >= lead_seconds
