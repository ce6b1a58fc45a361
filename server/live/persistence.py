"""What a session has on disk: its journal, and while it is parked the worker's snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from server.live.archive import Archive, Record
from server.live.journal import Entry, JournalStore


class Persistence:
    """One session's files."""

    def __init__(
        self, session_id: str, archive: Archive, record: Callable[[bool], Record], file: JournalStore | None = None
    ) -> None:
        """``record(parked)`` gives the session as it stands; ``file``: the journal that it was found in."""
        self._id, self._archive = session_id, archive
        self.snapshot: str | None = None  # of exactly the state in which the session is
        self._journal = archive.journal(session_id, lambda: record(self.snapshot is not None), file)
        self.outlives = False  # the files stay when the session ends here, so that another server can go on with it

    @property
    def snapshot_path(self) -> Path:
        """Where a worker writes the session's state."""
        return self._archive.snapshot(self._id)

    def parked(self) -> None:
        """A worker has written the state."""
        self.snapshot = str(self.snapshot_path)

    def forget_snapshot(self) -> None:
        """The session goes on from its state: what is on disk is of the past."""
        self.snapshot = None
        self._archive.drop_snapshot(self._id)

    def taken_over(self) -> bool:
        """Whether another server goes on with the session, as far as can be said. Blocking."""
        with contextlib.suppress(OSError):
            return self._journal.taken_over()
        return False

    async def begin(self) -> None:
        """Write down the session as it stands."""
        await self._journal.begin()

    async def add(self, entry: Entry) -> None:
        """Write down what happens, before a viewer sees it."""
        await self._journal.add(entry)

    def settle(self) -> None:
        """Force to disk what viewers now see."""
        self._journal.settle()

    def touch(self) -> None:
        """The session is in use, though nothing happens."""
        self._journal.touch()

    async def close(self) -> None:
        """Leave the files to another server, or remove them."""
        if not self.outlives:
            self._archive.drop_snapshot(self._id)
        await self._journal.end(keep=self.outlives)
