"""The actor on a cluster node: hosts one worker, on which any front can open sessions.

The worker is a supervised process as on a single machine, so a device fault ends that process, not the actor. The
account of its memory is here, shared by all fronts. The sessions of a front that falls silent are closed; their viewers
reconnect through another front, which reopens them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from server import __version__
from server.engine.assignment import Assignment
from server.engine.cluster.messages import (
    About,
    Admit,
    Drain,
    Heard,
    Hello,
    Move,
    Refused,
    Report,
    Said,
    Stores,
    Told,
    Undrain,
    decode,
    encode,
)
from server.engine.member import Member
from server.engine.pool import Pool
from server.errors import PafuError
from server.ipc.messages import Close, Ended, Message, Opened
from server.states import WorkerState
from server.telemetry.observer import Observer

REPORT_SECONDS = 0.5  # a waiting front gets a report at least this often
FRONT_SILENT = 10.0  # seconds without a call after which a front counts as gone
ALONE_SECONDS = 600.0  # without a front for this long, the actor releases its device
LOOK_SECONDS = 1.0


class Front:
    """The queue of messages for one front."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.said: list[Said] = []
        self.news = asyncio.Event()
        self.asked = time.monotonic()
        self.listening = 0

    def put(self, said: Said) -> None:
        self.said.append(said)
        self.news.set()

    @property
    def silent(self) -> bool:
        return not self.listening and time.monotonic() - self.asked > FRONT_SILENT


class Host:
    """The actor's implementation. Fronts call ``about``, ``hello``, ``tell``, ``hear`` and ``bye``; bytes are
    messages."""

    def __init__(self, assignment: bytes, leave: Callable[[], None]) -> None:
        """``leave`` terminates the actor."""
        self._assignment = assignment
        decoded = decode(assignment, Assignment)
        self._member = Member(decoded, Observer(decoded.spec), self._changed)
        self._pool = Pool([self._member], None)
        self._fronts: dict[str, Front] = {}
        self._sessions: dict[str, tuple[Front, asyncio.Task[None]]] = {}
        self._leave = leave
        self._watching: asyncio.Task[None] | None = None
        self._alone_since = time.monotonic()

    @property
    def used(self) -> bool:
        """Whether any front has ever come."""
        return self._watching is not None

    async def about(self) -> bytes:
        """Describe this host, before a front decides to use it."""
        living = [front.stores for front in self._fronts.values() if not front.silent]
        return encode(
            About(
                version=__version__,
                assignment=msgspec.Raw(self._assignment),
                stores=living[0] if living else None,
            )
        )

    async def hello(self, hello: bytes) -> bytes:
        """A front (re)connects: its earlier sessions here are closed. The first front starts the worker."""
        who = decode(hello, Hello)
        about = await self.about()
        await self.bye(who.front)
        self._fronts[who.front] = Front(who.stores)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="fronts")
            self._member.start()
        return about

    async def tell(self, front: str, told: bytes) -> None:
        """Handle a front's messages, in order."""
        teller = self._front(front)
        for message in decode(told, list[Told]):
            match message:
                case Admit():
                    await self._admit(teller, message)
                case Close():
                    await self._close_session(message.session, teller)
                case Move():
                    if message.session in self._member.lines:
                        await self._member.move(message.session)
                case Drain():
                    self._member.drain()
                case Undrain():
                    await self._member.undrain()
                case Message():
                    await self._member.send(message)

    async def hear(self, name: str) -> bytes:
        """Messages for the front and a report; waits up to REPORT_SECONDS for news."""
        front = self._front(name)
        front.listening += 1
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                await front.news.wait()
        except TimeoutError:
            pass
        finally:
            front.listening -= 1
            front.asked = time.monotonic()
        front.news.clear()
        said, front.said = front.said, []
        return encode(Heard(said, self._report()))

    async def bye(self, name: str) -> None:
        """The front is gone: close its sessions."""
        if (front := self._fronts.pop(name, None)) is not None:
            for session in [session for session, (whose, _) in self._sessions.items() if whose is front]:
                await self._close_session(session, front)

    def _front(self, name: str) -> Front:
        if name not in self._fronts:
            raise LookupError("this front was silent for too long and must say hello again")
        return self._fronts[name]

    # ---- sessions

    async def _admit(self, front: Front, admit: Admit) -> None:
        """Open a session, taking it over if another front has it here: the newest front has the viewer."""
        session = admit.order.session
        if session in self._sessions:
            await self._close_session(session, front)
        task = asyncio.create_task(self._serve(front, admit), name=session)
        self._sessions[session] = front, task

    async def _serve(self, front: Front, admit: Admit) -> None:
        """Open the session and forward its events to the front."""
        session = admit.order.session
        try:
            line = await self._member.open(admit.order, self._displaced(admit))
        except PafuError as error:
            self._sessions.pop(session, None)
            return front.put(Refused.of(session, error))
        self._changed()  # the other fronts see the place taken at once
        front.put(Opened(session=session, mime=line.mime, init=line.init))
        async for event in line.events():
            if isinstance(event, Ended):
                self._sessions.pop(session, None)
            front.put(event)

    def _displaced(self, admit: Admit) -> list[str]:
        """The background sessions to displace. Raises PafuError if there is no room, even if the front expected
        some."""
        if self._member.state is not WorkerState.READY:
            raise PafuError("not_ready", f"the worker is {self._member.state.value}")
        _, here = self._pool.place(admit.order)
        held = self._member.account.held
        asked = [name for name in admit.displaced if name in held and held[name].background]
        return list(dict.fromkeys([*here, *asked]))

    async def _close_session(self, session: str, by: Front) -> None:
        """Close a session; if another front had it, tell that front that the session has moved."""
        whose, task = self._sessions.pop(session, (by, None))
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._member.release(session)
        if whose is not by:
            reason = "another server has taken the session"
            whose.put(Ended(session=session, chunks=0, reason="failed", code="session_elsewhere", message=reason))

    # ---- reports

    def _changed(self) -> None:
        for front in self._fronts.values():
            front.news.set()

    def _report(self) -> Report:
        member = self._member
        return Report(
            status=member.status(),
            most=member.account.most,
            held=member.account.held,
            beat=member.last_beat,
            last_death=member.last_death,
        )

    async def _watch(self) -> None:
        """Drop silent fronts, stop a drained worker after its last session, end the actor when no front is left."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for name in [name for name, front in self._fronts.items() if front.silent]:
                await self.bye(name)
            if self._member.state is WorkerState.DRAINING and not self._member.lines:
                await self._member.leave()
            failed = self._member.state is WorkerState.FAILED  # a server with better settings may start at once
            if self._fronts:
                self._alone_since = time.monotonic()
            elif failed or time.monotonic() - self._alone_since > ALONE_SECONDS:
                await self._member.stop(0.0, "no front uses it")
                self._leave()
