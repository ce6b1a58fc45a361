"""Access to the job store and files from the event loop. Both are opened at first use, with retries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from server.config import ConfigError, Settings
from server.jobs.errors import StoreError, StoreUnavailable
from server.jobs.files import Files, FilesError, FilesUnavailable, open_files
from server.live.shared import SharedJournals

if TYPE_CHECKING:
    from server.jobs.store import JobStore

T = TypeVar("T")
DATABASE_THREADS, FILE_THREADS = 4, 4
BELIEVED_AFTER = 10.0  # seconds without a failure until the store counts as available again
TURN_WITHIN = 5.0  # seconds that a call waits for others before the store counts as unavailable
log = logging.getLogger("pafu.jobs")


def check(settings: Settings) -> str:
    """Look at the configured store and files; returns a description of where they are. Nothing is created or migrated.
    Raises ConfigError."""
    from sqlalchemy import make_url

    from server.jobs.connections import as_it_is, database_url

    url = database_url(settings.database, settings.data_dir)
    where = make_url(url).render_as_string(hide_password=True) if "://" in url else "PAFU_DATABASE"
    try:
        with as_it_is(url):
            pass
    except (StoreError, StoreUnavailable) as error:
        reason = " ".join(str(error).split())  # database drivers write several lines
        raise ConfigError(
            f"the job store cannot be reached: {reason} ({where}); see PAFU_DATABASE and PAFU_DATA_DIR, and for a "
            "damaged file see Restore in docs/operations.md",
            "database",
        ) from None
    for what, given in (("videos", settings.videos), ("sessions", settings.sessions)):
        try:
            open_files(given, settings.data_dir, what).check()
        except (FilesError, FilesUnavailable) as error:
            reason = f"{what} cannot be stored: {error}; see PAFU_{what.upper()} and PAFU_DATA_DIR"
            raise ConfigError(reason, what) from None
    return f"{where}; videos in {settings.videos or settings.data_dir}"


def known_stores(settings: Settings) -> dict[str, tuple[str, str]]:
    """Setting name -> (id of the store, its location); an id is empty if no server has used the store yet. Raises
    ConfigError."""
    from server.jobs import identity

    with _as_config_error():
        return identity.known(settings)


def make_stores(settings: Settings) -> dict[str, tuple[str, str]]:
    """As ``known_stores``, after creating the stores and ids that are missing."""
    from server.jobs import identity

    with _as_config_error():
        return identity.made(settings)


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except (StoreError, StoreUnavailable) as error:
        raise ConfigError(f"the job store cannot be used: {error}", "database") from None
    except (FilesError, FilesUnavailable) as error:
        raise ConfigError(f"the files cannot be stored: {error}", "videos", "sessions") from None


def shared_journals(settings: Settings) -> SharedJournals | None:
    """The journals shared with other servers, opened at first use; None without the setting ``sessions``."""
    if settings.sessions is None:
        return None
    from server.jobs.claims import Claims
    from server.jobs.connections import Connections, database_url

    files = open_files(settings.sessions, settings.data_dir, "sessions")
    return SharedJournals(files, Claims(lambda: Connections(database_url(settings.database, settings.data_dir))))


class Database:
    """Runs store queries (``run``) and file operations (``file``) on separate threads: a slow disk delays no query.

    ``trouble`` says why the store does not answer; empty once it has answered for BELIEVED_AFTER seconds.
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
        """Run a query on the store. Raises StoreUnavailable and whatever the query raises."""
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
        """A lock for adding jobs. Raises StoreUnavailable if it is not free in time."""
        async with _turn(self._ordering):
            yield

    def _note(self, trouble: str) -> None:
        """Log once when the store stops answering, and once when it works again.

        A single answer is not enough for that: a readable store may still be locked for writers.
        """
        if trouble:
            if not self.trouble:
                log.error("the job store is unavailable; jobs wait, live video continues: %s", trouble)
            self.trouble, self._since = trouble, time.monotonic()
        elif self.trouble and time.monotonic() - self._since > BELIEVED_AFTER:
            log.warning("the job store is available again")
            self.trouble = ""

    async def file(self, work: Callable[[Files], T]) -> T:
        """Run ``work`` on the files. Raises FilesUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: work(self.files()))

    def files(self) -> Files:
        """The files, opened if necessary. Blocking. Raises FilesError or FilesUnavailable."""
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
        from server.jobs.store import JobStore  # imported late: takes 0.2 s

        with self._opening:
            if self._store is None:
                try:
                    self._store = JobStore(database_url(self._settings.database, self._settings.data_dir))
                except StoreError as error:
                    raise StoreUnavailable(str(error)) from error
            return self._store


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Hold the semaphore. Raises StoreUnavailable if it is not free in time."""
    try:
        async with asyncio.timeout(TURN_WITHIN):
            await places.acquire()
    except TimeoutError:
        raise StoreUnavailable("the job database does not answer: too many calls are waiting") from None
    try:
        yield
    finally:
        places.release()
