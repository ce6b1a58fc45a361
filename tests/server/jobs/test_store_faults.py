"""Promise: a database that is locked, full or gone is an error in time, and what was told to be done stays done."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from server.jobs import connections as connections_module
from server.jobs.errors import StoreUnavailable
from server.jobs.job import StoredChunk
from server.jobs.store import JobStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections_module, "BUSY_SECONDS", 0.2)
    store = JobStore(f"sqlite:///{path}")
    yield store
    store.close()


def test_a_locked_database_is_unavailable_for_writers_in_time_readable_meanwhile_and_fine_again(
    store, path, order
) -> None:
    store.add("a", "me", order())
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.add("b", "me", order())
        assert store.get("a") is not None
        other.execute("ROLLBACK")
    other.close()
    assert store.add("b", "me", order())[1]


def test_a_deleted_database_file_is_an_error_and_not_a_new_empty_one(store, path, order) -> None:
    store.add("a", "me", order())
    kept = path.with_suffix(".kept")
    path.rename(kept)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.add("b", "me", order())
    assert not path.exists()
    kept.rename(path)
    assert store.get("a") is not None and store.get("b") is None


def test_a_full_disk_is_an_error_and_the_job_stays_as_it_was(store, order) -> None:
    store.add("a", "me", order())
    _, lease = store.claim("test-tiny")
    with store._connections._engine.connect() as connection:  # the pool has one connection: it stays limited
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        for number in range(10_000):
            store.add(f"b{number}", "me", order(prompt="long " * 500))
    with pytest.raises(StoreUnavailable, match="full"):
        store.add_chunk(lease, StoredChunk(number=0, media="m" * 100_000, past="p"), 1.0)
    assert store.get("a").chunks == 0 and store.chunks("a") == []
    with store._connections._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    store.add_chunk(lease, StoredChunk(number=0, media="m", past="p"), 1.0)
    assert store.get("a").chunks == 1


def test_a_killed_writer_leaves_all_or_nothing(store, path, order) -> None:
    """SQLite's own promise, held with our settings: an open transaction is gone with its connection."""
    store.add("a", "me", order())
    dying = sqlite3.connect(path, isolation_level=None)
    dying.execute("BEGIN IMMEDIATE")
    dying.execute("UPDATE pafu_jobs SET state = 'completed'")
    dying.close()
    assert store.get("a").state.value == "queued"
    assert store._connections._engine.connect().exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL


def test_a_postgresql_that_goes_and_comes_back(postgres, empty_postgres, order) -> None:
    store = JobStore(empty_postgres)
    try:
        name = f"vanish-{time.time_ns()}"
        store.add(name, "me", order())
        postgres.stop()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    store.get(name)
        finally:
            postgres.start()
        assert store.get(name) is not None
        assert store.delete(name)
    finally:
        store.close()
