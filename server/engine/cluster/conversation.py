"""A front's connection to one host of the cluster: say hello, then send and receive; reconnect when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from server.engine.assignment import Assignment
from server.engine.cluster.messages import About, Heard, Hello, Told, decode, encode
from server.states import WorkerState

log = logging.getLogger("pafu.engine")

SILENT = 10.0  # seconds; a live host answers twice per second
PLACE_WITHIN = 5.0  # seconds; an actor that Ray starts at once answers sooner, or a little later
AGAIN = 0.5  # seconds between two attempts to reach a host
AGAIN_REFUSED = 10.0  # seconds until the next attempt after a mismatch


class HostLost(Exception):
    """The host is gone, unreachable or incompatible; the message is one line."""


class HostMismatch(HostLost):
    """The host is reachable but incompatible with this front."""


class Link(Protocol):
    """Remote calls to a host (server.engine.cluster.host). Raise HostLost."""

    def about(self) -> Awaitable[bytes]: ...
    def hello(self, hello: bytes) -> Awaitable[bytes]: ...
    def tell(self, front: str, told: bytes) -> Awaitable[None]: ...
    def hear(self, front: str) -> Awaitable[bytes]: ...
    def bye(self, front: str) -> Awaitable[None]: ...


class Conversation:
    """The connection to one worker's host, over ``link``.

    ``take`` is called with received messages; ``broken`` with the worker's state and a reason if the host is
    unreachable or incompatible.
    """

    def __init__(
        self,
        assignment: Assignment,
        link: Link,
        front: Hello,
        take: Callable[[Heard], None],
        broken: Callable[[WorkerState, str], None],
    ) -> None:
        self._assignment, self._link, self._front = assignment, link, front
        self._take, self._broken = take, broken
        self._outbox: list[Told] = []
        self._written = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._following = asyncio.create_task(self._follow(), name=f"{self._assignment.name}")

    def tell(self, told: Told) -> None:
        """Queue a message for the host."""
        self._outbox.append(told)
        self._written.set()

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def bye(self, within: float) -> None:
        """Tell the host that this front leaves; waits at most ``within`` seconds."""
        with contextlib.suppress(HostLost, TimeoutError):
            async with asyncio.timeout(within):
                await self._link.bye(self._front.front)

    async def _follow(self) -> None:
        while True:
            patience = AGAIN
            try:
                await self._greet()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._listen())
                    both.create_task(self._speak())
            except* HostMismatch as refused:
                self._broken(WorkerState.FAILED, str(refused.exceptions[0]))
                patience = AGAIN_REFUSED
            except* HostLost as lost:
                self._broken(WorkerState.RESTARTING, f"{self._assignment.name} was lost ({lost.exceptions[0]})")
            except* Exception:
                log.exception("the connection to %s failed", self._assignment.name)
                self._broken(WorkerState.RESTARTING, "internal server error; see the log")
            await asyncio.sleep(patience)

    async def _greet(self) -> None:
        hello = asyncio.ensure_future(self._link.hello(encode(self._front)))
        try:
            await asyncio.wait((hello,), timeout=PLACE_WITHIN)
            if not hello.done():
                why = f"{self._assignment.name} waits until Ray has a place for it: other workers may hold its device"
                log.warning("%s", why)
                self._broken(WorkerState.STARTING, why)
            about = decoded_about(await self._within(self._assignment.load_within, hello))
        finally:
            hello.cancel()
        if why := mismatch(about, self._front, self._assignment):
            await self._link.bye(self._front.front)
            raise HostMismatch(why)
        self._outbox.clear()

    async def _listen(self) -> None:
        while True:
            heard = decode(await self._within(SILENT, self._link.hear(self._front.front)), Heard)
            self._take(heard)

    async def _speak(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            told, self._outbox = self._outbox, []
            await self._within(SILENT, self._link.tell(self._front.front, encode(told)))

    async def _within(self, seconds: float, call: Awaitable[bytes | None]) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await call or b""
        except TimeoutError:
            raise HostLost(f"no answer for {seconds:g} s") from None


def decoded_about(data: bytes) -> About:
    """Decode a host's reply. Raises HostMismatch if its version is incompatible."""
    try:
        return decode(data, About)
    except msgspec.MsgspecError as error:
        raise HostMismatch(f"the cluster's workers run another version of Pafu ({error})") from None


def mismatch(about: About, front: Hello, assignment: Assignment) -> str:
    """Why this front cannot use the worker; empty if it can."""
    other = "set another --ray-namespace for this server, or stop the others"
    if about.version != front.version:
        return f"the cluster's workers run Pafu {about.version}, this server {front.version}: {other}"
    try:
        theirs, ours = decode(bytes(about.assignment), Assignment).configure, assignment.configure
    except msgspec.MsgspecError as error:
        return f"the cluster's workers run a different Pafu {about.version} ({error}): {other}"
    for name in ("model", "weights", "salience_head", "parts"):
        if getattr(theirs, name) != getattr(ours, name):
            said = f"{getattr(theirs, name)!r}, but this server has {getattr(ours, name)!r}"
            return f"the cluster's workers have the {name.replace('_', ' ')} {said}: {other}"
    for name, (theirs_id, theirs_place) in (about.stores or {}).items():
        ours_id, ours_place = front.stores.get(name, ("", "its own"))
        if theirs_id != ours_id:
            said = f"PAFU_{name.upper()} is {ours_place} on this server and {theirs_place} on the others"
            alike = ", which are different places with the same name" if ours_place == theirs_place else ""
            return f"{said}{alike}; set one for all servers that every machine can reach"
    return ""
