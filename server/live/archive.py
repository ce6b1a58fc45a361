"""Sessions on disk: each one's journal (server.live.journal, or server.live.shared where all servers of several reach
it) and, of a parked one, the worker's snapshot.

They survive the server, so that a viewer can resume after a restart or a kill. Paths are built from
ids that the server made, never from what a client sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Container
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import msgspec

from server.access.limits import ANONYMOUS
from server.ipc.messages import Fragment, Interact, Open, Past
from server.live.journal import Entry, Journal, JournalFile, JournalStore, SessionInUse
from server.live.shared import Shelf
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.archive")

SESSION_ID = re.compile(r"sess_[0-9a-f]{16}")
FORMAT = 3
SHARED_WRITERS = 16  # an object store takes its time for each, so sessions do not wait for one another
QUIET = 30.0  # seconds without a failure after which the folder counts as good again


def hashed(token: str) -> bytes:
    """The hash of a resume token; the token itself is not kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the front needs to go on with a session: its order, its counters, chunks that were not played yet."""

    format: int
    order: Open
    token: bytes  # hashed
    past: Past | None
    mime: str
    init: bytes
    replay_begins: float
    replay: list[Fragment]
    created: float  # seconds since the epoch
    pending: list[Interact] = []  # changes that no chunk has shown yet
    parked: bool = False  # the worker's snapshot beside it is of the same moment
    caller: str = ANONYMOUS.name  # whose session it is


class JournalUnavailable(Exception):
    """Whether the session exists cannot be said now."""


class Left(msgspec.Struct, frozen=True):
    """What a server left of a session: its record, the log after it, and the file, which is now locked by us."""

    record: Record
    entries: list[Entry]
    file: JournalStore


class Archive:
    """The sessions that may outlive this server, in a folder or on a shelf that other servers reach; snapshots are in
    the folder. If it cannot be written, streams go on without it."""

    def __init__(self, folder: Path, keep: float, observer: Observer, shelf: Shelf | None = None) -> None:
        self._folder = folder
        self.shelf = shelf
        self._keep = keep
        self._observer = observer
        self._record = msgspec.msgpack.Decoder(Record)
        self._entry: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
        self._failed_at: float | None = None  # monotonic; None while all is well
        threads = 1 if shelf is None else SHARED_WRITERS
        self._writers: list[Executor] = [ThreadPoolExecutor(1, f"journal-{number}") for number in range(threads)]

    def prepare(self, in_use: Container[str]) -> None:
        """Make the folder, readable by its owner only, and delete the files of sessions that have expired.

        Files of the sessions ``in_use``, and of those that another server holds, stay however old they are.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                session = path.name.partition(".")[0]
                ours = SESSION_ID.fullmatch(session) and session not in in_use
                if ours and self._is_old(path) and not self._is_held(session):
                    path.unlink(missing_ok=True)
        except OSError as error:
            self.failed(error)

    def sweep(self, in_use: Container[str]) -> None:
        """Remove from the shelf what has expired. May take long."""
        try:
            if self.shelf is not None:
                self.shelf.sweep(self._keep, in_use)
        except OSError as error:
            self.failed(error)

    def snapshot(self, session: str) -> Path:
        """Where the worker writes the session's state."""
        return self._path(session, "safetensors")

    def journal(self, session: str, record: Callable[[], Record], file: JournalStore | None = None) -> Journal:
        """The session's journal: in the ``file`` that it was found in, or in a new one."""
        if self._keep:
            file = file or self._file(session)
        writer = self._writers[zlib.crc32(session.encode()) % len(self._writers)]
        return Journal(file, self, writer, record)

    def load(self, session: str, may: Callable[[Record], None]) -> Left | None:
        """What an earlier server left of the session, now ours; None when there is nothing readable.

        ``may`` raises what speaks against that. Raises SessionInUse, and JournalUnavailable when the shelf does not
        answer.
        """
        if not SESSION_ID.fullmatch(session):
            return None
        file = self._file(session)
        try:
            used = file.used()
            if used is None or time.time() - used > self._keep or (record := self._readable(file.peek())) is None:
                return None
            may(record)
            parts = file.claim()
            if parts and (record := self._readable(parts[0])) is not None:
                return Left(record, [self._entry.decode(part) for part in parts[1:]], file)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            if self.shelf is not None and isinstance(error, OSError):
                raise JournalUnavailable(str(error)) from error
            log.warning("the record of %s cannot be read: %s", session, error)
        file.close()
        return None

    def _file(self, session: str) -> JournalStore:
        return JournalFile(self._path(session, "session")) if self.shelf is None else self.shelf.journal(session)

    def _readable(self, body: bytes | None) -> Record | None:
        """None for one of another format."""
        record = None if body is None else self._record.decode(body)
        return record if record is not None and record.format == FORMAT else None

    def drop_snapshot(self, session: str) -> None:
        """Delete the snapshot: it is older than the record."""
        with contextlib.suppress(OSError):
            self.snapshot(session).unlink()

    def wrote(self) -> None:
        """A write succeeded."""
        if self._failed_at is not None and time.monotonic() - self._failed_at > QUIET:
            self._failed_at = None
            log.warning("sessions are kept in %s again", self._folder)

    def failed(self, error: BaseException) -> None:
        """A write failed: counted, and logged once per outage."""
        self._observer.journal_failed()
        known, self._failed_at = self._failed_at is not None, time.monotonic()
        if not known:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            log.warning(
                "sessions cannot be kept in %s: %s; they go on, but a server that is killed now loses them",
                self._folder,
                reason,
            )

    def _is_old(self, path: Path) -> bool:
        return time.time() - path.stat().st_mtime > self._keep

    def _is_held(self, session: str) -> bool:
        file = JournalFile(self._path(session, "session"))
        try:
            file.claim()
        except SessionInUse:
            return True
        except OSError:
            return False
        file.close()
        return False

    def _path(self, session: str, kind: str) -> Path:
        if not SESSION_ID.fullmatch(session):
            raise ValueError(f"{session!r} is no session id of this server")
        return self._folder / f"{session}.{kind}"
