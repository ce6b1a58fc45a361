"""Thumbnails on disk; names are hashes of their content's parameters (``Scene.name``)."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from pathlib import Path

from server.disk import write_whole

NAME = re.compile(r"[0-9a-f]{24}")
SUFFIX = ".webp"
KEEP_SECONDS = 30 * 86_400.0  # how long thumbnails of other models are kept


class Thumbnails:
    """A folder of thumbnails, which several servers may share. Methods block; all except ``has`` raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, name: str) -> Path:
        assert NAME.fullmatch(name), name
        return self._folder / f"{name}{SUFFIX}"

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def read(self, name: str) -> bytes | None:
        """The thumbnail; None if there is none."""
        try:
            return self._path(name).read_bytes() if NAME.fullmatch(name) else None
        except FileNotFoundError:
            return None

    def write(self, name: str, loop: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path(name), loop)

    def tidy(self, needed: Collection[str]) -> None:
        """Delete thumbnails that are not ``needed`` and older than KEEP_SECONDS."""
        if not self._folder.exists():
            return
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path.stem not in needed and time.time() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink(missing_ok=True)
