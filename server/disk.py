"""Atomic, durable writes: a file is complete or absent, and survives a power cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

PART = ".part"


def write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary file, fsync, rename, fsync the folder. On OSError no partial file is left."""
    os.close(open_whole(path, data))


def open_whole(path: Path, data: bytes, locked: bool = False) -> int:
    """As ``write_whole``, but return the file descriptor, open for appending.

    With ``locked``, the file is flocked before the rename makes it visible.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")  # one per process
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    try:
        if locked:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(handle, data)
        os.fsync(handle)
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    return handle


def write_all(handle: int, data: bytes) -> None:
    """Write every byte. On OSError, some of them may have been written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    """fsync the folder, which makes a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
