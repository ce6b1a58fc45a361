"""Journals that every server reaches: objects in a store of files, and in the database who has the session.

A session has a folder of objects: a record and the entries behind it, one each, named by three numbers. The *fence*
counts the servers that had the session; who comes with its token takes it over under the next one, whether the server
before is alive or not. What that one still writes, under its own fence, is never read again. The *generation* counts
the records of one server, the last number the entries behind a record.
"""

from __future__ import annotations

import re
import time
from collections.abc import Container
from typing import NamedTuple, Protocol

import msgspec

from server.live.journal import SHORT, Entry, framed, parts_of

NAME = re.compile(r"(\d{8})-(\d{8})-(\d{8})")
READ_AGAIN = 3  # its holder may compact while we read


class Objects(Protocol):
    """Where they are (server.jobs.files). Raises OSError."""

    def write(self, name: str, data: bytes) -> None: ...
    def read(self, name: str) -> bytes: ...
    def names(self, folder: str) -> list[str]: ...
    def remove(self, name: str) -> None: ...


class Claims(Protocol):
    """Who has which session (server.jobs.claims). Raises OSError."""

    def take(self, session: str) -> int:
        """The next fence; from now on the session is ours."""

    def keep(self, session: str, fence: int) -> bool:
        """The session is in use; False when another server has taken it."""

    def used(self, session: str) -> float | None:
        """When it was in use last (wall clock); None for one that is over."""

    def holds(self, session: str, fence: int) -> bool: ...
    def drop(self, session: str, fence: int) -> bool:
        """It is over, if it is ours still."""

    def unused(self, since: float) -> list[tuple[str, int]]: ...


class Place(NamedTuple):
    """An object of a session."""

    fence: int
    generation: int
    number: int

    def within(self, session: str) -> str:
        return f"{session}/" + "-".join(f"{part:08d}" for part in self)


class TakenOver(OSError):
    """Another server goes on with the session."""


class SharedJournal:
    """As server.live.journal.JournalFile, and used like it."""

    def __init__(self, session: str, objects: Objects, claims: Claims) -> None:
        self._session, self._objects, self._claims = session, objects, claims
        self._newest: Place | None = None  # of ours
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
        """No other server has taken the session. Raises OSError."""
        return self._fence is None or self._claims.holds(self._session, self._fence)

    def begin(self, record: msgspec.Struct) -> None:
        if self._fence is None:
            self._fence = self._claims.take(self._session)
        elif not self._claims.keep(self._session, self._fence):
            self._stale = True
            raise TakenOver("another server goes on with the session")
        data = framed(msgspec.msgpack.encode(record))
        place = Place(self._fence, self._newest.generation + 1 if self._newest else 1, 0)
        self._objects.write(place.within(self._session), data)
        self._newest, self._record, self._log, self._stale = place, len(data), 0, False
        self._remove(before=place)

    def append(self, entry: Entry) -> None:
        if self._stale or self._newest is None:
            return
        data = framed(msgspec.msgpack.encode(entry))
        place = self._newest._replace(number=self._newest.number + 1)
        try:
            self._objects.write(place.within(self._session), data)
        except OSError:
            self._stale = True
            raise
        self._newest, self._log = place, self._log + len(data)

    def sync(self) -> None:
        """Each object is safe when it is written."""

    def peek(self) -> bytes | None:
        """The newest record, whosever it is; None when there is none."""
        record = max((place for place in self._places() if place.number == 0), default=None)
        return None if record is None else next((body for body, _ in parts_of(self._read(record))), None)

    def claim(self) -> list[bytes]:
        """Take the session over; its record and what is behind that."""
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
        """Any server may take the session at any time."""

    def drop(self) -> None:
        if self._fence is not None and self._claims.drop(self._session, self._fence):
            self._remove(before=Place(self._fence + 1, 0, 0))

    def touch(self) -> None:
        if self._fence is not None:
            self._claims.keep(self._session, self._fence)

    def _whole(self) -> list[bytes]:
        places = sorted(self._places())
        record = max((place for place in places if place.number == 0), default=None)
        if record is None:
            raise FileNotFoundError(f"{self._session} has no record")
        behind = [place for place in places if place[:2] == record[:2]]
        bodies = []
        for number, place in enumerate(behind):
            body = next((body for body, _ in parts_of(self._read(place))), None)
            if body is None or place.number != number:
                break
            bodies.append(body)
        return bodies

    def _places(self) -> list[Place]:
        found = (NAME.fullmatch(name) for name in self._objects.names(self._session))
        return [Place(*map(int, match.groups())) for match in found if match]

    def _read(self, place: Place) -> bytes:
        return self._objects.read(place.within(self._session))

    def _remove(self, before: Place) -> None:
        for place in self._places():
            if place < before:
                self._objects.remove(place.within(self._session))


class Shelf:
    """All sessions that are kept where every server reaches them."""

    def __init__(self, objects: Objects, claims: Claims) -> None:
        self._objects, self._claims = objects, claims

    def journal(self, session: str) -> SharedJournal:
        return SharedJournal(session, self._objects, self._claims)

    def sweep(self, keep: float, in_use: Container[str]) -> None:
        """Remove what nobody came back for."""
        for session, fence in self._claims.unused(time.time() - keep):
            if session not in in_use and self._claims.drop(session, fence):
                for name in self._objects.names(session):
                    self._objects.remove(f"{session}/{name}")
