"""HLS output of live sessions: one watcher per session, whose window all its HLS players share."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable

from model.spec import ModelSpec
from server.errors import PafuError
from server.ipc.messages import Ended, Fragment
from server.live.hls import HlsWindow
from server.live.registry import SessionRegistry, unknown
from server.live.session import LiveSession

IDLE_SECONDS = 60.0  # without a request, after which the output is closed
FIRST_SECONDS = 30.0  # that the first request may block; most players give up after an error
PLAYLIST, INIT = "live.m3u8", "init.mp4"
PIECE = re.compile(r"(part|segment)(\d{1,12})\.m4s")


class HlsOutput:
    """The HLS window of one session, from the first request until IDLE_SECONDS after the last."""

    def __init__(self, session: LiveSession, spec: ModelSpec, done: Callable[[], None]) -> None:
        """``done`` is called when the output is closed."""
        self.session, self._done = session, done
        self._window = HlsWindow(spec)
        self._over: Ended | PafuError | None = None
        self._news = asyncio.Condition()
        self._running = asyncio.create_task(self._run(), name=f"{session.id}-hls")
        self._idle: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """A request arrived: postpone closing."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    def close(self) -> None:
        """Stop watching the session."""
        if self._idle is not None:
            self._idle.cancel()
        self._running.cancel()
        self._done()

    async def playlist(self, number: int | None, part: int | None) -> str:
        """The playlist; waits until it has the given segment or part. Raises PafuError."""
        await self._until(lambda: self._window.playable, FIRST_SECONDS)
        if number is not None:
            wanted = number
            await self._until(lambda: self._window.has(wanted, part), self._window.patience)
        return self._window.playlist()

    async def file(self, name: str) -> bytes:
        """The init segment, a segment or a part; waits for the next part. Raises PafuError not_found."""
        if name == INIT:
            await self._until(lambda: bool(self.session.init), FIRST_SECONDS)
            return self.session.init
        found = PIECE.fullmatch(name)
        if found is None:
            raise PafuError("not_found", f"{name[:64]!r} is not a file of a session; start with {PLAYLIST}")
        number = int(found[2])
        if found[1] == "part" and self._window.comes_next(number):
            await self._until(lambda: not self._window.comes_next(number), self._window.patience)
        data = self._window.part(number) if found[1] == "part" else self._window.segment(number)
        if data is None:
            raise PafuError("not_found", f"{name} is no longer kept or does not exist yet; read {PLAYLIST} again")
        return data

    async def _until(self, ready: Callable[[], bool], within: float) -> None:
        """Wait until ``ready`` or the session is over, at most ``within`` seconds. Raises PafuError."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: self._over is not None or ready())
        except TimeoutError:
            raise PafuError("not_ready", "the session generates no pictures now; try again", retry_after=1.0) from None
        if isinstance(self._over, PafuError):
            raise self._over
        if self._over is not None and not self._window.playable:  # it ended before its first segment
            raise unknown(self.session.id)

    async def _run(self) -> None:
        subscriber = await self.session.watch("m4s", first=0)
        try:
            while self._over is None:
                await self._take(await self.session.next(subscriber))
        finally:
            await self.session.leave(subscriber)

    async def _take(self, event: object) -> None:
        """Handle an event for watchers of the session."""
        async with self._news:
            match event:
                case Fragment():
                    self._window.add(event.index, event.pictures, event.data)
                case Ended(reason="server_shutdown"):
                    self._over = PafuError("shutting_down", "the server is shutting down", retry_after=1.0)
                case Ended():
                    self._window.end()
                    self._over = event
                case PafuError():
                    self._over = event
            self._news.notify_all()


class HlsOutputs:
    """The open outputs, by session. The session's watch token in the URL gives access."""

    def __init__(self, sessions: SessionRegistry, spec: ModelSpec, may_watch: Callable[[str], bool]) -> None:
        """``may_watch``: whether the session's caller still has a key."""
        self._sessions, self._spec, self._may_watch = sessions, spec, may_watch
        self._outputs: dict[str, HlsOutput] = {}

    def find(self, session_id: str, token: str) -> HlsOutput:
        """The session's output, created if necessary. Raises PafuError unknown_session, also for a wrong token."""
        output = self._outputs.get(session_id)
        session = output.session if output else self._sessions.get(session_id)
        if session is None or not hmac.compare_digest(token.encode(), session.watch_token.encode()):
            raise unknown(session_id)
        if not self._may_watch(session.caller):
            raise unknown(session_id)
        if output is None:
            output = HlsOutput(session, self._spec, lambda: self._forget(session_id))
            self._outputs[session_id] = output
        output.touch()
        return output

    def forget_owners(self) -> None:
        """Close the outputs of sessions whose caller has no key any more."""
        for output in list(self._outputs.values()):
            if not self._may_watch(output.session.caller):
                output.close()

    def _forget(self, session_id: str) -> None:
        self._outputs.pop(session_id, None)
