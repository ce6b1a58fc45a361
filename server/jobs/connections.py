"""Connections to the job database, SQLite or PostgreSQL, with a timeout on every wait."""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from server.config.folders import why_unusable
from server.jobs import schema
from server.jobs.errors import StoreError, StoreUnavailable

BUSY_SECONDS = 5.0  # lock timeout, after which the store counts as unavailable
SCHEMA_LOCK = 0x70616675  # PostgreSQL advisory lock: only one server creates the tables
SERVER_OPTIONS = f"-c lock_timeout={BUSY_SECONDS:.0f}s -c statement_timeout={2 * BUSY_SECONDS:.0f}s"


class Connections:
    """Transactions on one database with the tables of schema.py."""

    def __init__(self, url: str) -> None:
        """Connect; create the database's file and tables, or migrate older ones. Raises StoreError or
        StoreUnavailable."""
        self._engine = _engine(url)
        try:
            if (file := sqlite_file(url)) is not None:
                _create(file)
            with self.alone() as connection:
                schema.prepare(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction. Raises StoreUnavailable."""
        with _named_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction. Raises StoreUnavailable."""
        with _named_errors(), self._engine.connect() as connection:
            with connection.execution_options(pafu_writes=True).begin():
                yield connection

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A write transaction that only one server can hold at a time. Raises StoreUnavailable."""
        with self.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))
            yield connection


@contextmanager
def as_it_is(url: str) -> Iterator[Connection | None]:
    """A transaction on the database, in which nothing is created or migrated; None if it has no tables yet.

    Raises StoreError or StoreUnavailable if no server could use this database.
    """
    engine, file = _engine(url), sqlite_file(url)
    if file is not None and not file.exists():
        if why := why_unusable(file.parent):
            raise StoreUnavailable(f"the job database {file} cannot be created: {why}")
        yield None
        return
    try:
        with _named_errors(), engine.connect() as connection:
            with connection.execution_options(pafu_writes=True).begin():  # tells whether it can be written
                yield connection if schema.version(connection) else None
    finally:
        engine.dispose()


def database_url(url: str | None, data_dir: Path) -> str:
    """The SQLAlchemy URL for the setting: PostgreSQL through psycopg; default: SQLite in the data directory."""
    if not url:
        return f"sqlite:///{data_dir / 'jobs.sqlite'}"
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for another one. Raises StoreError for one in memory."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise StoreError("jobs in memory are lost on restart; give a file: sqlite:////path/to/jobs.sqlite")
    return Path(parsed.database)


def _engine(url: str) -> Engine:
    try:
        if (file := sqlite_file(url)) is not None:
            return _sqlite(file)
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            arguments = {"connect_timeout": int(BUSY_SECONDS), "options": SERVER_OPTIONS}
            return create_engine(parsed, pool_pre_ping=True, connect_args=arguments)
    except (ArgumentError, ImportError) as error:
        raise StoreError(f"the job database cannot be used: {error}") from None
    raise StoreError(f"jobs are kept in sqlite or postgresql, not {parsed.get_backend_name()!r}")


def _create(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"the job database {file} cannot be created: {error.strerror}") from error
    if why := why_unusable(file.parent):
        raise StoreError(why)


def _sqlite(path: Path) -> Engine:
    """A durable SQLite engine: WAL, synchronous commits, and no new empty file if the database file disappears."""

    def connect() -> sqlite3.Connection:
        name = f"file:{urllib.parse.quote(str(path))}?mode=rw"
        connection = sqlite3.connect(
            name, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
        )
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":  # SQLite refuses WAL if memory cannot be shared
            connection.close()
            raise sqlite3.OperationalError(f"the file system of {path} cannot share memory; choose a local folder")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "connect")
    def remember_file(_: Any, record: Any) -> None:
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def same_file(_: Any, record: Any, __: Any) -> None:
        if record.info["file"] != _identity(path):  # deleted or replaced: writes would be lost
            raise DisconnectionError(f"{path} was deleted or replaced")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("pafu_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _named_errors() -> Iterator[None]:
    """Convert database errors to StoreUnavailable, except IntegrityError."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise StoreUnavailable(f"the job database does not answer: {error.orig}") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StoreUnavailable(f"the job database does not answer: {error}") from error
