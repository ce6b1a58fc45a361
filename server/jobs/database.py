"""The store and the files, off the event loop. They are opened at first use, and again until that works."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from server.config import ConfigError, Settings
from server.jobs.errors import StoreError, StoreUnavailable
from server.jobs.files import Files, FilesError, FilesUnavailable, open_files
from server.live.shared import Shelf

if TYPE_CHECKING:
    from server.jobs.store import JobStore

T = TypeVar("T")
DATABASE_THREADS, FILE_THREADS = 4, 4
BELIEVED_AFTER = 10.0  # seconds without a failure
TURN_WITHIN = 5.0  # how long a call waits for others before the store counts as unavailable
log = logging.getLogger("pafu.jobs")


def check(settings: Settings) -> str:
    """Open the store and the files as the settings name them; where they are. Raises ConfigError."""
    from sqlalchemy import make_url

    from server.jobs.connections import database_url
    from server.jobs.store import JobStore

    url = database_url(settings.database, settings.data_dir)
    where = make_url(url).render_as_string(hide_password=True) if "://" in url else "PAFU_DATABASE"
    try:
        JobStore(url).close()
    except (StoreError, StoreUnavailable) as error:
        reason = " ".join(str(error).split())  # database drivers explain themselves in several lines
        raise ConfigError(
            f"the job store cannot be reached: {reason} ({where}); see PAFU_DATABASE and PAFU_DATA_DIR, and for a "
            "damaged file Backup and restore in docs/operations.md",
            "database",
        ) from None
    for what, given in (("videos", settings.videos), ("sessions", settings.sessions)):
        try:
            open_files(given, settings.data_dir, what)
        except (FilesError, FilesUnavailable) as error:
            reason = f"{what} cannot be kept: {error}; see PAFU_{what.upper()} and PAFU_DATA_DIR"
            raise ConfigError(reason, what) from None
    return f"{where}; videos in {settings.videos or settings.data_dir}"


def stores(settings: Settings) -> dict[str, tuple[str, str]]:
    """By the setting's name: the id of a store, and where it is. Raises ConfigError."""
    from server.jobs import identity

    check(settings)
    return identity.stores(settings)


def shelf_for(settings: Settings) -> Shelf | None:
    """Where live sessions are kept for all servers, if the settings name a place. Opened at first use."""
    if settings.sessions is None:
        return None
    from server.jobs.claims import Claims
    from server.jobs.connections import Connections, database_url

    files = open_files(settings.sessions, settings.data_dir, "sessions")
    return Shelf(files, Claims(lambda: Connections(database_url(settings.database, settings.data_dir))))


class Database:
    """``run`` calls the store, ``file`` the files, on separate threads, so that a slow disk holds up no query.

    ``trouble``: why the store does not answer; empty when it does, and did for a while.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: JobStore | None = None
        self._files: Files | None = None
        self._opening = Lock()
        self.trouble, self._since = "", 0.0
        self._turns, self._ordering = asyncio.Semaphore(DATABASE_THREADS), asyncio.Semaphore(1)
        self._queries = ThreadPoolExecutor(DATABASE_THREADS, "jobs-database")
        self._disk = ThreadPoolExecutor(FILE_THREADS, "jobs-files")

    async def run(self, query: Callable[[JobStore], T]) -> T:
        """The query's answer. Raises StoreUnavailable, and whatever the store's method raises."""
        async with _turn(self._turns):
            try:
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._queries, lambda: query(self._opened_store()))
            except StoreUnavailable as error:
                self._note(str(error))
                raise
        self._note("")
        return answer

    @asynccontextmanager
    async def ordering(self) -> AsyncIterator[None]:
        """One at a time. Raises StoreUnavailable when those before take too long."""
        async with _turn(self._ordering):
            yield

    def _note(self, trouble: str) -> None:
        """Log it once when the store stops answering, and when it answers again. One that can be read may be locked
        for writers, so a single answer ends no trouble."""
        if trouble:
            if not self.trouble:
                log.error("the job store is away; jobs wait, live video goes on: %s", trouble)
            self.trouble, self._since = trouble, time.monotonic()
        elif self.trouble and time.monotonic() - self._since > BELIEVED_AFTER:
            log.warning("the job store answers again")
            self.trouble = ""

    async def file(self, work: Callable[[Files], T]) -> T:
        """The work's result. Raises FilesUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: work(self.files()))

    def files(self) -> Files:
        with self._opening:
            if self._files is None:
                self._files = open_files(self._settings.videos, self._settings.data_dir)
            return self._files

    async def close(self) -> None:
        """Wait for running calls, then close the database."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._disk.shutdown()
        self._queries.shutdown()
        if self._store is not None:
            self._store.close()

    def _opened_store(self) -> JobStore:
        from server.jobs.connections import database_url
        from server.jobs.store import JobStore  # importing it takes 0.2 s, which only servers with jobs should pay

        with self._opening:
            if self._store is None:
                try:
                    self._store = JobStore(database_url(self._settings.database, self._settings.data_dir))
                except StoreError as error:
                    raise StoreUnavailable(str(error)) from error
            return self._store


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Hold one of the places. Raises StoreUnavailable when none is free in time."""
    try:
        async with asyncio.timeout(TURN_WITHIN):
            await places.acquire()
    except TimeoutError:
        raise StoreUnavailable("the job database does not answer: others wait for it already") from None
    try:
        yield
    finally:
        places.release()
