"""The write-ahead journal of one session: a record of its state, then a log of every change and chunk since.

Entries are written before viewers see them, so another server can continue the session after a crash. Every part is
framed by its length and CRC-32, so a truncated part is detected and ignored. The server that runs a session holds an
flock on the file. The kernel releases it when the process dies, so only one of several servers gets the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from server.disk import open_whole, write_all
from server.ipc.messages import Fragment, Interact, Rejected

FRAME = struct.Struct(">II")  # length, CRC-32
SHORT = 2**20  # bytes; a shorter log is not compacted
MOST_BEHIND = 8  # if compaction fails, keep appending until the log is this many times its threshold
WRITTEN_WITHIN = 1.0  # seconds; the longest that a chunk waits for the disk
PATIENT = 2  # with this many writes pending, a chunk does not wait for its own; a change does
MOST_OWED = 16  # pending writes; with more, the disk counts as broken
TRY_AGAIN = 10.0  # seconds between a failure and the next attempt

Entry = Fragment | Interact | Rejected


class SessionInUse(Exception):
    """Another server has the session."""


def framed(body: bytes) -> bytes:
    """A part: length, CRC-32, body."""
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def parts_of(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Every complete part and its end offset, up to the first truncated or damaged one."""
    begin = 0
    while begin + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, begin)
        body = data[begin + FRAME.size : begin + FRAME.size + length]
        begin += FRAME.size + length
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        yield body, begin


class JournalStore(Protocol):
    """Storage of one journal: a local file, or objects shared with other servers (server.live.shared)."""

    @property
    def good(self) -> bool: ...
    @property
    def long(self) -> bool: ...
    @property
    def ours(self) -> bool: ...
    def begin(self, record: msgspec.Struct) -> None: ...
    def append(self, entry: Entry) -> None: ...
    def sync(self) -> None: ...
    def peek(self) -> bytes | None: ...
    def claim(self) -> list[bytes]: ...
    def used(self) -> float | None: ...
    def close(self) -> None: ...
    def drop(self) -> None: ...
    def touch(self) -> None: ...


class JournalFile:
    """A journal in a local file. Methods block and raise OSError; one thread at a time may call them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._record = 0  # bytes
        self._log = 0  # bytes after the record

    @property
    def good(self) -> bool:
        """Whether the file is open and complete."""
        return self._handle is not None

    ours = True  # the lock keeps other servers out

    @property
    def long(self) -> bool:
        """Whether to compact: the log is longer than the record."""
        return self._log > max(SHORT, self._record)

    def begin(self, record: msgspec.Struct) -> None:
        """Replace the file by a new record. On failure, the old file stays in use unless its log is huge."""
        data = framed(msgspec.msgpack.encode(record))
        try:
            handle = open_whole(self._path, data, locked=True)
        except OSError:
            if self._log > MOST_BEHIND * max(SHORT, self._record):
                self.drop()
            raise
        self.close()
        self._handle, self._record, self._log = handle, len(data), 0

    def append(self, entry: Entry) -> None:
        """Append without syncing. After a failure the file is stale, so delete it."""
        if self._handle is None:
            return
        data = framed(msgspec.msgpack.encode(entry))
        try:
            write_all(self._handle, data)
        except OSError:
            self.drop()
            raise
        self._log += len(data)

    def sync(self) -> None:
        """Flush appended entries to disk."""
        if self._handle is not None:
            os.fdatasync(self._handle)

    def used(self) -> float | None:
        """Wall-clock time of the last write; None without a file."""
        try:
            return self._path.stat().st_mtime
        except FileNotFoundError:
            return None

    def peek(self) -> bytes | None:
        """Read the record without taking the lock."""
        return next((body for body, _ in parts_of(self._path.read_bytes())), None)

    def claim(self) -> list[bytes]:
        """Lock an existing file and return its complete parts. Raises SessionInUse or FileNotFoundError."""
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino != os.stat(self._path).st_ino:
                raise BlockingIOError  # its owner has just replaced it
            parts = list(parts_of(self._path.read_bytes()))
            self._log = parts[-1][1] if parts else 0
            os.ftruncate(handle, self._log)
        except BlockingIOError:
            os.close(handle)
            raise SessionInUse from None
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return [body for body, _ in parts]

    def close(self) -> None:
        """Release the lock, so that any server may take the session."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def drop(self) -> None:
        """Delete the file, because the session is over or the file is stale."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self.close()

    def touch(self) -> None:
        """Update the modification time, so that the file does not expire."""
        if self._handle is not None:
            os.utime(self._handle)


class JournalHost(Protocol):
    """Receives the result of every write."""

    def wrote(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...


class Journal:
    """Writes one session's journal from the event loop, through a writer thread that keeps the order.

    If the disk fails or is slow, the session continues without a journal.
    """

    def __init__(
        self, file: JournalStore | None, host: JournalHost, writer: Executor, record: Callable[[], msgspec.Struct]
    ) -> None:
        """Without ``file``, nothing is written. ``writer`` has one thread; ``record`` returns the current state."""
        self._file, self._host, self._writer, self._record = file, host, writer, record
        self._begun = file is not None and file.good
        self._owed: set[asyncio.Future[None]] = set()
        self._try_again = 0.0  # monotonic

    def taken_over(self) -> bool:
        """Whether another server has taken the session. Blocking. Raises OSError."""
        return self._file is not None and not self._file.ours

    async def begin(self) -> None:
        """Write a new record."""
        if self._file is not None:
            await _wait(self._begin(self._file))

    async def add(self, entry: Entry) -> None:
        """Append an entry. Waits for the write; with many pending, a chunk does not, because it can be made again."""
        if self._file is None or not self._ready(self._file):
            return
        patient = isinstance(entry, Interact) or len(self._owed) < PATIENT
        written = self._submit(self._file.append, entry)
        if patient:
            await _wait(written)

    def settle(self) -> None:
        """Once viewers have seen an entry: sync it to disk, or compact a long file."""
        if self._file is None or not self._begun:
            return
        if self._file.long and time.monotonic() >= self._try_again:
            self._begin(self._file)
        elif not self._owed:
            self._submit(self._file.sync)

    def touch(self) -> None:
        """Keep the file of a session in use from expiring."""
        if self._file is not None:
            self._submit(self._file.touch)

    async def end(self, keep: bool) -> None:
        """Leave the file to another server (``keep``) or delete it, and stop writing."""
        file, self._file = self._file, None
        if file is not None:
            await _wait(self._submit(file.close if keep else file.drop))

    def _ready(self, file: JournalStore) -> bool:
        """Whether there is a file to append to. TRY_AGAIN seconds after a failure, start a new one."""
        if len(self._owed) > MOST_OWED and self._begun:
            self._submit(file.drop)
            self._failed(TimeoutError("the disk is too slow"), good=False)
        if not self._begun and not self._owed and time.monotonic() >= self._try_again:
            self._begin(file)
        return self._begun

    def _begin(self, file: JournalStore) -> asyncio.Future[None]:
        self._begun = True
        return self._submit(file.begin, self._record())

    def _submit(self, work: Callable[..., None], *given: Any) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().run_in_executor(self._writer, work, *given)
        self._owed.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[None]) -> None:
        self._owed.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failed(error, good=self._file is not None and self._file.good)
        elif self._begun:
            self._host.wrote()

    def _failed(self, error: BaseException, good: bool) -> None:
        self._begun = good
        self._try_again = time.monotonic() + TRY_AGAIN
        self._host.failed(error)


async def _wait(written: asyncio.Future[None]) -> None:
    await asyncio.wait((written,), timeout=WRITTEN_WITHIN)
