"""The viewers of one session: what each must still be told and sent, and how far the owner has played.

The owner paces and steers the session; watchers get its chunks, from the newest on.
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
    """The session waits for a worker; ``position`` is 1 for the next, ``seconds`` an estimate, where there is one."""

    position: int
    depth: int
    seconds: float | None = None


@dataclass(frozen=True)
class Interrupted:
    """The worker was lost; the stream goes on in another one."""

    reason: str


@dataclass(frozen=True)
class TakenOver:
    """Another connection resumed the session; this one is no longer its viewer."""


@dataclass(frozen=True)
class Opened:
    """A worker has the session; sent once to each viewer, before its first chunk."""


Notice = Queued | Interrupted | TakenOver | Opened | Rejected | Ended | PafuError
NEWEST = -1  # cursor of one who takes whatever chunk is newest


@dataclass(eq=False)
class Subscriber:
    """One viewer of a session."""

    owner: bool
    format: str
    cursor: int  # index of the chunk to send next, or NEWEST
    opened: bool = False
    notices: deque[Notice] = field(default_factory=deque)


class Audience:
    """Subscribers and the chunks that they may still need."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.mime, self.init = "", b""  # of the stream; empty until a worker has opened it
        self.end: Ended | PafuError | None = None
        self.paused = False
        self._subscribers: list[Subscriber] = []
        self._news = asyncio.Event()
        self._sent = replay.begins  # media time that was sent to the owner
        self._playhead: float | None = None  # that the owner reported

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def owner(self) -> Subscriber | None:
        return next((each for each in self._subscribers if each.owner), None)

    @property
    def idle(self) -> bool:
        """Nobody wants a picture."""
        return self.paused or self.owner is None

    @property
    def wants_jpeg(self) -> bool:
        return any(each.format == "jpeg" for each in self._subscribers)

    @property
    def playhead(self) -> float | None:
        """What the owner reported, seconds; None for one that reports nothing."""
        return self._playhead

    def own(self, format: str, first: int) -> Subscriber:
        """A new owner, who gets the chunks from ``first`` on and has played all before it."""
        if before := self.owner:
            before.notices.append(TakenOver())
            self._subscribers.remove(before)
        self.paused, self._playhead = False, None
        self._sent = max(self.replay.begins, self.replay.ends_at(first - 1))
        self.replay.seen(self._sent)
        return self._join(Subscriber(owner=True, format=format, cursor=first))

    def watch(self, format: str) -> Subscriber:
        return self._join(Subscriber(owner=False, format=format, cursor=NEWEST))

    def _join(self, subscriber: Subscriber) -> Subscriber:
        self._subscribers.append(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> bool:
        """Whether it was still there."""
        there = subscriber in self._subscribers
        if there:
            self._subscribers.remove(subscriber)
        return there

    # ---- telling

    def tell(self, notice: Notice) -> None:
        """Tell everybody; only the owner hears that a change was rejected."""
        for each in self._subscribers:
            if each.owner or not isinstance(notice, Rejected):
                each.notices.append(notice)
        self.publish()

    def publish(self) -> None:
        """Wake all who wait for news."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        """Return at the next ``publish``."""
        await self._news.wait()

    async def next(self, subscriber: Subscriber) -> Notice | Fragment:
        """What the subscriber is to be sent next, waiting for it."""
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
        if fragment is not None and subscriber.format == "jpeg" and not fragment.jpegs:
            subscriber.cursor = fragment.index + 1  # it was made before anybody wanted JPEG
            return self.replay.at(subscriber.cursor)
        return fragment

    # ---- the owner's progress

    def delivered(self, fragment: Fragment) -> None:
        """The owner was sent a chunk; one that reports no playhead is taken to have played it."""
        self._sent = max(self._sent, self.replay.ends_at(fragment.index))
        if self._playhead is None:
            self._played(self._sent)

    def played_to(self, seconds: float) -> None:
        """The owner reported its playhead."""
        self._playhead = seconds
        self._played(min(seconds, self._sent))

    def _played(self, seconds: float) -> None:
        """Drop what the owner has played; watchers may be a little late, so the newest chunk stays for them."""
        self.replay.seen(seconds, keep=int(len(self._subscribers) > 1))

    def holds_back(self, lead_seconds: float) -> bool:
        """Whether nothing is made because the owner reports its playhead and plays nothing."""
        return self._playhead is not None and self.replay.seconds >= lead_seconds
