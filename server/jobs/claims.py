"""Which server has which live session: one database row per session, touched at every new journal record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.jobs.connections import Connections
from server.jobs.errors import StoreError, StoreUnavailable
from server.jobs.schema import sessions

TRIES = 3  # two servers may claim a session simultaneously


class Claims:
    """Implements server.live.shared.Claims. ``connect`` opens the database at first use."""

    def __init__(self, connect: Callable[[], Connections]) -> None:
        self._connect = connect
        self._opened: Connections | None = None
        self._opening = Lock()

    def take(self, session: str) -> int:
        for _ in range(TRIES):
            with self._write() as connection:
                mine = sessions.c.id == session
                later = update(sessions).where(mine).values(fence=sessions.c.fence + 1, used_at=time.time())
                fence: int | None = connection.execute(later.returning(sessions.c.fence)).scalar_one_or_none()
                if fence is not None:
                    return fence
            try:
                with self._write() as connection:
                    connection.execute(insert(sessions).values(id=session, fence=1, used_at=time.time()))
                    return 1
            except IntegrityError:
                continue
        raise OSError("the session could not be claimed: other servers keep claiming it")

    def keep(self, session: str, fence: int) -> bool:
        with self._write() as connection:
            mine = (sessions.c.id == session) & (sessions.c.fence == fence)
            return connection.execute(update(sessions).where(mine).values(used_at=time.time())).rowcount == 1

    def used(self, session: str) -> float | None:
        with self._read() as connection:
            found: float | None = connection.execute(
                select(sessions.c.used_at).where(sessions.c.id == session)
            ).scalar_one_or_none()
        return found

    def holds(self, session: str, fence: int) -> bool:
        with self._read() as connection:
            found = connection.execute(select(sessions.c.fence).where(sessions.c.id == session)).scalar_one_or_none()
        return bool(found == fence)

    def drop(self, session: str, fence: int) -> bool:
        with self._write() as connection:
            mine = (sessions.c.id == session) & (sessions.c.fence == fence)
            return connection.execute(delete(sessions).where(mine)).rowcount == 1

    def unused(self, since: float) -> list[tuple[str, int]]:
        with self._read() as connection:
            rows = connection.execute(select(sessions.c.id, sessions.c.fence).where(sessions.c.used_at < since)).all()
        return [(row.id, row.fence) for row in rows]

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with _as_os_error(), self._connections().read() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with _as_os_error(), self._connections().write() as connection:
            yield connection

    def _connections(self) -> Connections:
        with self._opening:
            if self._opened is None:
                self._opened = self._connect()
            return self._opened


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Convert store errors to OSError, which journals expect."""
    try:
        yield
    except (StoreError, StoreUnavailable) as error:
        raise OSError(str(error)) from error
