"""Both databases for the store's tests: a SQLite file, and a real PostgreSQL started by the test run."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from server.ipc.messages import CacheChoice
from server.jobs.connections import database_url
from server.jobs.job import Order
from server.jobs.store import JobStore

CACHE = CacheChoice(policy="window", budget_latents=6.0, sink_latents=0, recent_latents=3)


class Postgres:
    """A PostgreSQL server that can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path, *, fsync: bool = False) -> None:
        self._programs, self._folder, self._fsync = programs, folder, "on" if fsync else "off"
        # PostgreSQL refuses to run as root
        self._user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._run("initdb", "-A", "trust", "-U", "pafu", "--no-sync", "-E", "UTF8", "--locale", "C")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync={self._fsync}"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    @property
    def url(self) -> str:
        return f"postgresql://pafu@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        quiet = subprocess.DEVNULL  # a pipe would be inherited by the server and never end
        subprocess.run(command, check=True, cwd=self._folder, stdout=quiet, stderr=quiet, **self._user)


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian does not put on PATH."""
    folders = [Path(found).resolve().parent for found in (shutil.which("pg_ctl"),) if found]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = postgres_programs()
    if programs is None or (os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}):
        if os.environ.get("PAFU_TEST_REQUIRE_POSTGRES"):
            pytest.fail("PostgreSQL (initdb, pg_ctl, and for root a user postgres) is not here")
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = Postgres(programs, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return database_url(None, tmp_path / "data")
    return emptied(request.getfixturevalue("postgres"), tmp_path)


def emptied(server: Postgres, tmp_path: Path) -> str:
    """The address of its database, emptied."""
    address = database_url(server.url, tmp_path)
    engine = create_engine(address)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return address


@pytest.fixture
def empty_postgres(postgres: Postgres, tmp_path: Path) -> str:
    return emptied(postgres, tmp_path)


@pytest.fixture
def stores(url: str) -> Iterator[Callable[..., JobStore]]:
    """Open the database as several servers would: one store after another."""
    opened: list[JobStore] = []

    def open_store(**options: Any) -> JobStore:
        opened.append(JobStore(url, **options))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def store(stores: Callable[..., JobStore]) -> JobStore:
    return stores()


@pytest.fixture
def order() -> Callable[..., Order]:
    def make(**fields: Any) -> Order:
        given = {"model": "test-tiny", "prompt": "a bar", "seed": 1, "width": 128, "height": 128, "fps": 16}
        return Order(**{**given, "pictures": 30, "cache": CACHE, **fields})

    return make
