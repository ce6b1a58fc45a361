"""Journals shared by several servers: objects in a file store, and the owner of each session in the database.

A session has a folder of objects: one for its record and one per entry after it, each named by three numbers. The
*fence* counts the servers that have had the session. A server that resumes it takes the next fence, whether or not the
previous server is alive; what the previous one still writes under its old fence is never read. The *generation* counts
the records of one server, and the *number* counts the entries after a record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Container
from typing import NamedTuple, Protocol

import msgspec

from server.live.journal import SHORT, Entry, framed, parts_of

NAME = re.compile(r"(\d{8})-(\d{8})-(\d{8})")
READ_AGAIN = 3  # attempts, since its owner may compact while we read


class ObjectStore(Protocol):
    """The object store (server.jobs.files). Methods raise OSError."""

    def write(self, name: str, data: bytes) -> None: ...
    def read(self, name: str) -> bytes: ...
    def names(self, folder: str) -> list[str]: ...
    def remove(self, name: str) -> None: ...


class Claims(Protocol):
    """Which server has which session (server.jobs.claims). Methods raise OSError."""

    def take(self, session: str) -> int:
        """Take the session for this server; returns the new fence."""

    def keep(self, session: str, fence: int) -> bool:
        """Mark the session as in use; False if another server has taken it."""

    def used(self, session: str) -> float | None:
        """Wall-clock time of the last use; None if the session is over."""

    def holds(self, session: str, fence: int) -> bool: ...
    def drop(self, session: str, fence: int) -> bool:
        """Mark the session as over, if this server still has it; whether it did."""

    def unused(self, since: float) -> list[tuple[str, int]]: ...


class ObjectKey(NamedTuple):
    """The key of one object of a session."""

    fence: int
    generation: int
    number: int

    def within(self, session: str) -> str:
        return f"{session}/" + "-".join(f"{part:08d}" for part in self)


class ClaimLost(OSError):
    """Another server has taken the session."""


class SharedJournal:
    """A JournalStore (server.live.journal) in shared objects."""

    def __init__(self, session: str, objects: ObjectStore, claims: Claims) -> None:
        self._session, self._objects, self._claims = session, objects, claims
        self._newest: ObjectKey | None = None  # that this server wrote
        self._fence: int | None = None
        self._record = self._log = 0  # bytes
        self._stale = True

    @property
    def good(self) -> bool:
        return not self._stale

    @property
    def long(self) -> bool:
        return self._log > max(SHORT, self._record)

    @property
    def ours(self) -> bool:
        """Whether this server still has the session. Raises OSError."""
        return self._fence is None or self._claims.holds(self._session, self._fence)

    def begin(self, record: msgspec.Struct) -> None:
        if self._fence is None:
            self._fence = self._claims.take(self._session)
        elif not self._claims.keep(self._session, self._fence):
            self._stale = True
            raise ClaimLost("another server has taken the session")
        data = framed(msgspec.msgpack.encode(record))
        key = ObjectKey(self._fence, self._newest.generation + 1 if self._newest else 1, 0)
        self._objects.write(key.within(self._session), data)
        self._newest, self._record, self._log, self._stale = key, len(data), 0, False
        self._remove(before=key)

    def append(self, entry: Entry) -> None:
        if self._stale or self._newest is None:
            return
        data = framed(msgspec.msgpack.encode(entry))
        key = self._newest._replace(number=self._newest.number + 1)
        try:
            self._objects.write(key.within(self._session), data)
        except OSError:
            self._stale = True
            raise
        self._newest, self._log = key, self._log + len(data)

    def sync(self) -> None:
        """Nothing to do: objects are durable once written."""

    def peek(self) -> bytes | None:
        """The newest record of any server; None if there is none."""
        record = max((key for key in self._keys() if key.number == 0), default=None)
        return None if record is None else next((body for body, _ in parts_of(self._read(record))), None)

    def claim(self) -> list[bytes]:
        """Take over the session; returns its record and the entries after it."""
        self._fence, self._stale = self._claims.take(self._session), True
        for last in (*[False] * (READ_AGAIN - 1), True):
            try:
                return self._whole()
            except FileNotFoundError:
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def used(self) -> float | None:
        return self._claims.used(self._session)

    def close(self) -> None:
        """Nothing to do: any server may take the session at any time."""

    def drop(self) -> None:
        if self._fence is not None and self._claims.drop(self._session, self._fence):
            self._remove(before=ObjectKey(self._fence + 1, 0, 0))

    def touch(self) -> None:
        if self._fence is not None:
            self._claims.keep(self._session, self._fence)

    def _whole(self) -> list[bytes]:
        keys = sorted(self._keys())
        record = max((key for key in keys if key.number == 0), default=None)
        if record is None:
            raise FileNotFoundError(f"{self._session} has no record")
        objects = [key for key in keys if key[:2] == record[:2]]
        bodies = []
        for number, key in enumerate(objects):
            body = next((body for body, _ in parts_of(self._read(key))), None)
            if body is None or key.number != number:
                break
            bodies.append(body)
        return bodies

    def _keys(self) -> list[ObjectKey]:
        found = (NAME.fullmatch(name) for name in self._objects.names(self._session))
        return [ObjectKey(*map(int, match.groups())) for match in found if match]

    def _read(self, key: ObjectKey) -> bytes:
        return self._objects.read(key.within(self._session))

    def _remove(self, before: ObjectKey) -> None:
        for key in self._keys():
            if key < before:
                self._objects.remove(key.within(self._session))


class SharedJournals:
    """The shared journals of all sessions."""

    def __init__(self, objects: ObjectStore, claims: Claims) -> None:
        self._objects, self._claims = objects, claims

    def journal(self, session: str) -> SharedJournal:
        return SharedJournal(session, self._objects, self._claims)

    def sweep(self, keep: float, in_use: Container[str]) -> None:
        """Delete sessions unused for ``keep`` seconds."""
        for session, fence in self._claims.unused(time.time() - keep):
            if session not in in_use and self._claims.drop(session, fence):
                for name in self._objects.names(session):
                    self._objects.remove(f"{session}/{name}")
