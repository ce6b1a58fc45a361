"""Stored sessions: journals, and for parked sessions the worker's snapshot.

A viewer can resume a stored session after a restart or crash of the server. Journals are files (server.live.journal) or
objects that several servers share (server.live.shared). Paths are built only from ids that the server generated.
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
from server.live.shared import SharedJournals
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.archive")

SESSION_ID = re.compile(r"sess_[0-9a-f]{16}")
FORMAT = 3
SHARED_WRITERS = 16  # object stores are slow, so sessions write in parallel
QUIET = 30.0  # the folder counts as healthy after this many seconds without a failure


def hashed(token: str) -> bytes:
    """The hash of a resume token; only the hash is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the front needs to continue a session: its open request, counters and unplayed chunks."""

    format: int
    order: Open
    token: bytes  # hashed
    past: Past | None
    mime: str
    init: bytes
    replay_begins: float
    replay: list[Fragment]
    created: float  # seconds since the epoch
    pending: list[Interact] = []  # changes not yet in a chunk
    parked: bool = False  # the worker's snapshot is of the same moment
    caller: str = ANONYMOUS.name  # name of the caller who owns the session


class JournalUnavailable(Exception):
    """The store does not answer, so it is unknown whether the session exists."""


class StoredSession(msgspec.Struct, frozen=True):
    """A stored session: its record, the log entries after it, and its file, which this server has locked."""

    record: Record
    entries: list[Entry]
    file: JournalStore


class Archive:
    """Stores sessions so that they outlive this server: in a folder, or in journals shared with other servers.

    Snapshots are always in the folder. If it is not writable, streams continue without being stored.
    """

    def __init__(self, folder: Path, keep: float, observer: Observer, shared: SharedJournals | None = None) -> None:
        self._folder = folder
        self.shared = shared
        self._keep = keep
        self._observer = observer
        self._record = msgspec.msgpack.Decoder(Record)
        self._entry: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
        self._failed_at: float | None = None  # monotonic time of the last failure; None: healthy
        threads = 1 if shared is None else SHARED_WRITERS
        self._writers: list[Executor] = [ThreadPoolExecutor(1, f"journal-{number}") for number in range(threads)]

    def prepare(self, in_use: Container[str]) -> None:
        """Create the folder (mode 0700) and delete the files of expired sessions.

        Sessions ``in_use``, and those locked by another server, are never deleted.
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
        """Delete expired sessions from the shared journals. May be slow."""
        try:
            if self.shared is not None:
                self.shared.sweep(self._keep, in_use)
        except OSError as error:
            self.failed(error)

    def snapshot(self, session: str) -> Path:
        """Path of the worker's snapshot of the session."""
        return self._path(session, "safetensors")

    def journal(self, session: str, record: Callable[[], Record], file: JournalStore | None = None) -> Journal:
        """The session's journal: the existing ``file``, or a new one."""
        if self._keep:
            file = file or self._file(session)
        writer = self._writers[zlib.crc32(session.encode()) % len(self._writers)]
        return Journal(file, self, writer, record)

    def load(self, session: str, may: Callable[[Record], None]) -> StoredSession | None:
        """Load and lock a stored session; None if there is no readable one.

        ``may`` gets its record first, and raises to refuse. Raises SessionInUse, and JournalUnavailable if the shared
        store does not answer.
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
                return StoredSession(record, [self._entry.decode(part) for part in parts[1:]], file)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            if self.shared is not None and isinstance(error, OSError):
                raise JournalUnavailable(str(error)) from error
            log.warning("cannot read the record of %s: %s", session, error)
        file.close()
        return None

    def _file(self, session: str) -> JournalStore:
        return JournalFile(self._path(session, "session")) if self.shared is None else self.shared.journal(session)

    def _readable(self, body: bytes | None) -> Record | None:
        """Decode a record; None if its format version differs."""
        record = None if body is None else self._record.decode(body)
        return record if record is not None and record.format == FORMAT else None

    def drop_snapshot(self, session: str) -> None:
        """Delete the snapshot, which is older than the record."""
        with contextlib.suppress(OSError):
            self.snapshot(session).unlink()

    def wrote(self) -> None:
        """A write succeeded."""
        if self._failed_at is not None and time.monotonic() - self._failed_at > QUIET:
            self._failed_at = None
            log.warning("sessions are stored in %s again", self._folder)

    def failed(self, error: BaseException) -> None:
        """A write failed: count it, and log it once per outage."""
        self._observer.journal_failed()
        known, self._failed_at = self._failed_at is not None, time.monotonic()
        if not known:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            log.warning(
                "sessions cannot be stored in %s: %s; they continue, but a crash of the server would lose them",
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
            raise ValueError(f"{session!r} is not a session id")
        return self._folder / f"{session}.{kind}"
