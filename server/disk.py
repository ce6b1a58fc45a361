"""Files that are there whole or not at all, and stay after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, force to disk, rename, force the name to disk. Raises OSError, and leaves no part behind."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")  # two writers must not share one
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Force the folder's entries to disk: a rename is not safe before."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
