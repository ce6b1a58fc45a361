"""The file of one session: its record, and behind it what happened since, written down before a viewer sees it.

A server that is killed leaves it behind, and another goes on from it. Every part of it is framed by its length and its
CRC-32; what a kill has torn off at the end is not there. Whoever holds a session holds its file's lock (flock), which
the kernel takes back from a process that dies: of two servers on one folder one gets the session.
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
SHORT = 2**20  # bytes behind a record that are never worth a new one
MOST_BEHIND = 8  # a new record that cannot be written is waited for until so many times more lie behind the old one
WRITTEN_WITHIN = 1.0  # a chunk waits so long for the disk, and no longer
PATIENT = 2  # writes that are owed already; behind more a chunk does not wait
MOST_OWED = 16  # a disk that owes more counts as broken
TRY_AGAIN = 10.0  # seconds after a failure

Entry = Fragment | Interact | Rejected


class Held(Exception):
    """Another server has the session."""


def framed(body: bytes) -> bytes:
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def parts_of(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Every whole part and where it ends, up to the first that is torn or damaged."""
    begin = 0
    while begin + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, begin)
        body = data[begin + FRAME.size : begin + FRAME.size + length]
        begin += FRAME.size + length
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        yield body, begin


class JournalFile:
    """The file itself. Blocking; used by one thread at a time. All methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._record = 0  # bytes of the record
        self._behind = 0  # bytes behind it

    @property
    def good(self) -> bool:
        """What was written is there, and more can be."""
        return self._handle is not None

    @property
    def long(self) -> bool:
        """It is time for a new record: more lies behind the old one than it takes itself."""
        return self._behind > max(SHORT, self._record)

    def begin(self, record: msgspec.Struct) -> None:
        """Replace all of it by a new record. When that fails, a file that was good still is, unless it becomes huge."""
        data = framed(msgspec.msgpack.encode(record))
        try:
            handle = open_whole(self._path, data, locked=True)
        except OSError:
            if self._behind > MOST_BEHIND * max(SHORT, self._record):
                self.drop()
            raise
        self.close()
        self._handle, self._record, self._behind = handle, len(data), 0

    def append(self, entry: Entry) -> None:
        """Hand to the kernel. A file that cannot be written any more tells of the past as if it were now: it goes."""
        if self._handle is None:
            return
        data = framed(msgspec.msgpack.encode(entry))
        try:
            write_all(self._handle, data)
        except OSError:
            self.drop()
            raise
        self._behind += len(data)

    def sync(self) -> None:
        """Force to disk what was appended."""
        if self._handle is not None:
            os.fdatasync(self._handle)

    def claim(self) -> list[bytes]:
        """Take the file that a server before this one left: its whole parts. Raises Held, or FileNotFoundError."""
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino != os.stat(self._path).st_ino:
                raise BlockingIOError  # its holder has just begun it anew
            parts = list(parts_of(self._path.read_bytes()))
            self._behind = parts[-1][1] if parts else 0
            os.ftruncate(handle, self._behind)
        except BlockingIOError:
            os.close(handle)
            raise Held from None
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return [body for body, _ in parts]

    def close(self) -> None:
        """Let go of it: any server may take the session now."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def drop(self) -> None:
        """The session is over, or cannot be told any more."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self.close()

    def touch(self) -> None:
        """Somebody is still there, though nothing happens."""
        if self._handle is not None:
            os.utime(self._handle)


class Keeper(Protocol):
    """Where journals are kept: the thread that writes them, and who hears how that goes."""

    writer: Executor

    def wrote(self) -> None: ...
    def failed(self, error: BaseException) -> None: ...


class Journal:
    """A session's side of its file, in the event loop; writes happen in order, in a thread. A disk that fails or is
    slow costs the session its journal and nothing else.
    """

    def __init__(self, file: JournalFile | None, keeper: Keeper, record: Callable[[], msgspec.Struct]) -> None:
        """Without a ``file`` nothing is kept. ``record`` is asked for the session as it stands."""
        self._file, self._keeper, self._record = file, keeper, record
        self._begun = file is not None and file.good
        self._owed: set[asyncio.Future[None]] = set()
        self._try_again = 0.0  # monotonic

    async def begin(self) -> None:
        """Write down the session as it stands."""
        if self._file is not None:
            await _wait(self._begin(self._file))

    async def add(self, entry: Entry) -> None:
        """Write down what happens. Returns when the kernel has it; a disk that owes much is not waited for."""
        if self._file is None or not self._ready(self._file):
            return
        patient = len(self._owed) < PATIENT
        written = self._submit(self._file.append, entry)
        if patient:
            await _wait(written)

    def settle(self) -> None:
        """Behind an entry that viewers see now: force it to disk; where the file has become long, begin it anew."""
        if self._file is None or not self._begun:
            return
        if self._file.long and time.monotonic() >= self._try_again:
            self._begin(self._file)
        elif not self._owed:
            self._submit(self._file.sync)

    def touch(self) -> None:
        """The session is held, though nothing happens: its file is not old."""
        if self._file is not None:
            self._submit(self._file.touch)

    async def end(self, keep: bool) -> None:
        """Let go of the file, for another server to go on from it, or drop it. Nothing is written behind that."""
        file, self._file = self._file, None
        if file is not None:
            await _wait(self._submit(file.close if keep else file.drop))

    def _ready(self, file: JournalFile) -> bool:
        """Whether there is a file to add to; one that failed is begun anew after a while."""
        if len(self._owed) > MOST_OWED and self._begun:
            self._submit(file.drop)
            self._failed(TimeoutError("the disk is too slow"), good=False)
        if not self._begun and not self._owed and time.monotonic() >= self._try_again:
            self._begin(file)
        return self._begun

    def _begin(self, file: JournalFile) -> asyncio.Future[None]:
        self._begun = True
        return self._submit(file.begin, self._record())

    def _submit(self, work: Callable[..., None], *given: Any) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().run_in_executor(self._keeper.writer, work, *given)
        self._owed.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[None]) -> None:
        self._owed.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failed(error, good=self._file is not None and self._file.good)
        elif self._begun:
            self._keeper.wrote()

    def _failed(self, error: BaseException, good: bool) -> None:
        self._begun = good
        self._try_again = time.monotonic() + TRY_AGAIN
        self._keeper.failed(error)


async def _wait(written: asyncio.Future[None]) -> None:
    await asyncio.wait((written,), timeout=WRITTEN_WITHIN)
