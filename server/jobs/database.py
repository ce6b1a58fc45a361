"""The store and the files, off the event loop. They are opened at first use, and again until that works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def check(settings: Settings) -> str:
    """Open the store and the files as the settings name them; where they are. Raises ConfigError."""
    from sqlalchemy import make_url

    from server.jobs.connections import database_url
    from server.jobs.store import JobStore

    url = database_url(settings.database, settings.data_dir)
    try:
        JobStore(url).close()
    except (StoreError, StoreUnavailable) as error:
        reason = " ".join(str(error).split())  # database drivers explain themselves in several lines
        raise ConfigError(
            f"the job store cannot be reached: {reason}; see PAFU_DATABASE and PAFU_DATA_DIR", "database"
        ) from None
    for what, given in (("videos", settings.videos), ("sessions", settings.sessions)):
        try:
            open_files(given, settings.data_dir, what)
        except (FilesError, FilesUnavailable) as error:
            reason = f"{what} cannot be kept: {error}; see PAFU_{what.upper()} and PAFU_DATA_DIR"
            raise ConfigError(reason, what) from None
    return f"{make_url(url).render_as_string(hide_password=True)}; videos in {settings.videos or settings.data_dir}"


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
    """``run`` calls the store, ``file`` the files, on separate threads, so that a slow disk holds up no query."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: JobStore | None = None
        self._files: Files | None = None
        self._opening = Lock()
        self._closed = False
        self._queries = ThreadPoolExecutor(DATABASE_THREADS, "jobs-database")
        self._disk = ThreadPoolExecutor(FILE_THREADS, "jobs-files")

    async def run(self, query: Callable[[JobStore], T]) -> T:
        """The query's answer. Raises StoreUnavailable, and whatever the store's method raises."""
        return await asyncio.get_running_loop().run_in_executor(self._queries, lambda: query(self._opened_store()))

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
        self._closed = True
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
