"""The live sessions of this server, each visible only to the caller who created it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from model.spec import ModelSpec
from server.access.limits import Caller, Limits, Permit
from server.config import Settings
from server.engine.interface import Engine
from server.errors import PafuError
from server.ipc.messages import Open
from server.live.archive import Archive, JournalUnavailable, Record, hashed
from server.live.journal import SessionInUse
from server.live.session import LiveSession, check_token, new_token
from server.live.session_info import Session, describe
from server.live.session_state import SessionState
from server.live.shared import SharedJournals
from server.live.waiting_room import WaitingRoom
from server.states import SessionStatus


class SessionRegistry:
    """Creates, finds, resumes and drains live sessions."""

    def __init__(
        self, engine: Engine, spec: ModelSpec, settings: Settings, limits: Limits, shared: SharedJournals | None = None
    ) -> None:
        """``shared``: journals shared with other servers; None: journals in the data folder."""
        self._engine, self._spec, self._settings, self._limits = engine, spec, settings, limits
        self._archive = Archive(settings.data_dir / "sessions", settings.keep_on_disk, engine.observer, shared)
        self._finding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._next_sweep = 0.0  # monotonic
        self._live: dict[str, LiveSession] = {}
        self.waiting_room = WaitingRoom(engine, settings, self._make_room)
        engine.observer.sources.append(self._report_gauges)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Any:
        return iter(list(self._live.values()))

    def create(self, order: Open, caller: Caller) -> tuple[LiveSession, str]:
        """A new session, which starts once it has an owner, and its resume token. Raises PafuError session_limit, or as
        ``Engine.check``."""
        self._engine.check(order.cache)
        counted = self._limits.acquire_session(caller)
        token = new_token()
        state = SessionState(order, hashed(token), caller.name, self._spec)
        made = LiveSession(state, self.waiting_room, self._archive, self._settings)
        self._begin(made, counted)
        return made, token

    def get(self, session_id: str) -> LiveSession | None:
        """The live session with this id, of any caller."""
        return self._live.get(session_id)

    def of(self, caller: Caller) -> list[LiveSession]:
        """The caller's sessions."""
        return [session for session in self if session.caller == caller.name]

    async def find(self, session_id: str, caller: Caller) -> LiveSession:
        """The caller's session with this id; loads a stored session if necessary.

        Raises PafuError unknown_session (also for another caller's session), session_elsewhere, session_limit or
        storage_unavailable.
        """
        return await self._found(session_id, caller, None)

    async def resume(self, session_id: str, token: str, caller: Caller) -> LiveSession:
        """Like ``find``, for an owner who resumes with a token. Also raises PafuError wrong_token."""
        session = await self._found(session_id, caller, token)
        session.check_token(token)
        return session

    async def _found(self, session_id: str, caller: Caller, token: str | None) -> LiveSession:
        lock = self._finding.setdefault(session_id, asyncio.Lock())
        async with lock:
            found = self._live.get(session_id)
            if found is not None and token is not None and await asyncio.to_thread(found.taken_over):
                found.expire()  # another server has continued it meanwhile
                found = None
            found = found or await self._load_stored(session_id, caller, token)
        if found is not None and found.caller == caller.name:
            return found
        raise unknown(session_id)

    async def _load_stored(self, session_id: str, caller: Caller, token: str | None) -> LiveSession | None:
        """Load a stored session of the caller; None if there is none."""

        def may(record: Record) -> None:
            if record.caller != caller.name:
                raise unknown(session_id)
            if token is not None:
                check_token(token, record.token)
            elif self._archive.shared is not None:  # without a token, another server may still be streaming it
                reason = "the session may run on another server; resume it with its token to take it over"
                raise PafuError("session_elsewhere", reason, "session_id")

        try:
            stored = await asyncio.to_thread(self._archive.load, session_id, may)
        except SessionInUse:
            reason = "another server on this data folder has the session; retry when it has released it"
            raise PafuError("session_elsewhere", reason, "session_id", retry_after=1.0) from None
        except JournalUnavailable as error:
            reason = f"stored sessions cannot be read now ({error}); try again"
            raise PafuError("storage_unavailable", reason, "session_id", retry_after=1.0) from None
        if stored is None:
            return None
        try:
            counted = self._limits.acquire_session(caller)
        except PafuError:
            stored.file.close()
            raise
        found = LiveSession.from_stored(stored, self.waiting_room, self._archive, self._spec, self._settings)
        self._begin(found, counted)
        return found

    def describe(self, session: LiveSession) -> Session:
        """The session's entry in /v1/sessions."""
        held = self._engine.cache_bytes(session.order.cache) if session.on_device else 0
        return describe(session, self._spec.name, held)

    async def drain(self, within: float) -> None:
        """At shutdown: admit no more sessions and store the running ones for resumption, within ``within`` seconds."""
        self.waiting_room.closed = True
        ending = [asyncio.create_task(session.outlive()) for session in self]
        if ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await asyncio.gather(*ending, return_exceptions=True)

    async def _report_gauges(self) -> None:
        """Before a scrape: report sessions by status and viewers by role."""
        count = Counter(session.status for session in self)
        owners = sum(session.owner is not None for session in self)
        self._engine.observer.sessions(
            active=count[SessionStatus.STREAMING],
            waiting=count[SessionStatus.WAITING],
            suspended={
                "device": count[SessionStatus.PAUSED] + count[SessionStatus.SUSPENDED],
                "disk": count[SessionStatus.PARKED],
            },
            viewers={"owner": owners, "watcher": sum(session.viewers for session in self) - owners},
            reserved_bytes=self._engine.status().cache_held_bytes,
        )

    def _prepare(self) -> None:
        """Create the folder and delete expired files, at most once per ``keep_on_disk`` seconds."""
        now, keep = time.monotonic(), self._settings.keep_on_disk
        if keep and now >= self._next_sweep:
            self._next_sweep = now + keep
            self._archive.prepare(in_use=self._live)
            if self._archive.shared is not None:
                asyncio.get_running_loop().run_in_executor(None, self._archive.sweep, self._live)

    def _begin(self, session: LiveSession, counted: Permit) -> None:
        self._live[session.id] = session
        self._prepare()
        session.begin(counted, self._engine.observer.session(), self._forget)
        self._bound(session.caller)

    def _forget(self, session: LiveSession) -> None:
        if self._live.get(session.id) is session:
            del self._live[session.id]

    def _bound(self, caller: str) -> None:
        """Above ``max_kept``, end the caller's sessions that have been without a viewer longest."""
        unwatched = [s for s in self if s.caller == caller and not s.viewers and s.idle_since < math.inf]
        unwatched.sort(key=lambda session: session.idle_since)
        for session in unwatched[: max(0, len(unwatched) - self._settings.max_kept)]:
            session.expire()

    def forget_owners(self, known: Callable[[str], bool]) -> None:
        """End sessions without viewers whose caller's key no longer exists."""
        for session in self:
            if not session.viewers and not known(session.caller):
                session.expire()

    async def _make_room(self) -> bool:
        """Free a place by parking the session that has been idle on a device longest; whether a place was freed.

        If sessions are not kept on disk, end it instead, but never while its owner is connected.
        """
        to_disk = self._settings.keep_on_disk > 0
        idle = [s for s in self if s.on_device and (s.idle if to_disk else s.owner is None)]
        if not idle:
            return False
        longest = min(idle, key=lambda session: session.idle_since)
        await (longest.park() if to_disk else longest.stop())
        return not longest.on_device


def unknown(session_id: str) -> PafuError:
    """The error for a session that does not exist or belongs to another caller."""
    reason = f"there is no session {session_id[:64]!r}; it may have ended or expired"
    return PafuError("unknown_session", reason, "session_id")
