"""The files of one session: its journal and, while it is parked, the worker's snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from server.live.archive import Archive, Record
from server.live.journal import Entry, JournalStore


class Persistence:
    """Owns one session's files."""

    def __init__(
        self, session_id: str, archive: Archive, record: Callable[[bool], Record], file: JournalStore | None = None
    ) -> None:
        """``record(parked)`` returns the current state; ``file`` is the journal of a stored session."""
        self._id, self._archive = session_id, archive
        self.snapshot: str | None = None  # path of a snapshot of the current state
        self._journal = archive.journal(session_id, lambda: record(self.snapshot is not None), file)
        self.outlives = False  # keep the files at the end, for another server

    @property
    def snapshot_path(self) -> Path:
        """Path where a worker writes the session's state."""
        return self._archive.snapshot(self._id)

    def parked(self) -> None:
        """A worker has written the snapshot."""
        self.snapshot = str(self.snapshot_path)

    def forget_snapshot(self) -> None:
        """Delete the snapshot, which is out of date once the session continues."""
        self.snapshot = None
        self._archive.drop_snapshot(self._id)

    def taken_over(self) -> bool:
        """Whether another server has taken the session; False if that is unknown. Blocking."""
        with contextlib.suppress(OSError):
            return self._journal.taken_over()
        return False

    async def begin(self) -> None:
        """Write a record of the current state."""
        await self._journal.begin()

    async def add(self, entry: Entry) -> None:
        """Append an entry, before a viewer sees it."""
        await self._journal.add(entry)

    def settle(self) -> None:
        """Sync the entries that viewers have seen to disk."""
        self._journal.settle()

    def touch(self) -> None:
        """Keep the files of a session in use from expiring."""
        self._journal.touch()

    async def close(self) -> None:
        """Leave the files to another server if the session outlives this one; otherwise delete them."""
        if not self.outlives:
            self._archive.drop_snapshot(self._id)
        await self._journal.end(keep=self.outlives)
