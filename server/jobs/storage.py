"""The job store and files for the routes: failures become errors for the caller."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from server.errors import RETRY_AFTER, PafuError
from server.jobs.database import Database
from server.jobs.errors import StoreUnavailable
from server.jobs.files import Files, FilesUnavailable

if TYPE_CHECKING:
    from server.jobs.store import JobStore

T = TypeVar("T")
log = logging.getLogger("pafu.jobs")


class Storage:
    """Access to the store and the files. Methods raise PafuError storage_unavailable if they do not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, query: Callable[[JobStore], T]) -> T:
        with _named_errors():
            return await self._database.run(query)

    async def file(self, work: Callable[[Files], T]) -> T:
        with _named_errors():
            return await self._database.file(work)

    @contextlib.asynccontextmanager
    async def ordering(self) -> AsyncIterator[None]:
        """See Database.ordering."""
        with _named_errors():
            async with self._database.ordering():
                yield


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (StoreUnavailable, FilesUnavailable) as error:
        log.log(
            logging.DEBUG if isinstance(error, StoreUnavailable) else logging.WARNING, "%s", error
        )  # Database has logged the former
        reason = "the video storage does not answer; nothing was lost, try again later"
        raise PafuError("storage_unavailable", reason, retry_after=RETRY_AFTER) from error
