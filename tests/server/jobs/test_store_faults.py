"""Promise: a locked, full or missing database gives an error in time, and acknowledged writes are never lost."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import time
from pathlib import Path

import httpx
import pytest

from server.config import ConfigError, Settings, folders
from server.jobs import connections as connections_module
from server.jobs import database as database_module
from server.jobs import video_service
from server.jobs.errors import StoreError, StoreUnavailable
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
    """SQLite's promise with our settings: an open transaction ends with its connection."""
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


async def test_requests_against_a_locked_database_fail_in_parallel(serve, path, order, monkeypatch) -> None:
    monkeypatch.setattr(connections_module, "BUSY_SECONDS", 0.5)
    monkeypatch.setattr(database_module, "TURN_WITHIN", 0.5)
    monkeypatch.setattr(database_module, "BELIEVED_AFTER", 600.0)
    server = await serve(data_dir=path.parent)
    await server.engine.settled()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        asked = {"prompt": "a bar", "num_frames": 12}
        assert (await http.post("/v1/videos", json=asked)).status_code == 200
        assert (await http.get("/health")).json()["jobs"] == {"status": "ok", "reason": ""}
        writes = 0
        real = JobStore.add

        def add(*given, **more):
            nonlocal writes
            writes += 1
            return real(*given, **more)

        monkeypatch.setattr(JobStore, "add", add)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        replies = await asyncio.gather(*(http.post("/v1/videos", json=asked) for _ in range(12)))
        assert {reply.status_code for reply in replies} == {503}
        assert writes <= 4, "those who waited in vain for their turn did not wait for the lock once more"
        told = (await http.get("/health")).json()["jobs"]
        assert told["status"] == "unavailable" and "does not answer" in told["reason"]
        assert (await http.get("/readyz")).status_code == 200, "live video continues"
        assert re.search(r"pafu_jobs_store_up{.*} 0", (await http.get("/metrics")).text)
        other.execute("ROLLBACK")
        other.close()
        monkeypatch.setattr(database_module, "BELIEVED_AFTER", 0.0)
        assert (await http.post("/v1/videos", json=asked)).status_code == 200
        assert (await http.get("/health")).json()["jobs"]["status"] == "ok"


async def test_a_video_is_deleted_from_a_disk_so_full_that_only_its_own_files_make_room(
    serve, path, monkeypatch
) -> None:
    server = await serve(data_dir=path.parent)
    await server.engine.settled()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        made = await http.post("/v1/videos/sync", json={"prompt": "a bar", "num_frames": 12})
        video_id = made.headers["x-pafu-video-id"]
        folder, real = path.parent / "videos" / video_id, JobStore.delete

        def delete(store: JobStore, *which) -> bool:
            if folder.exists():
                raise StoreUnavailable("the job database does not answer: database or disk is full")
            return real(store, *which)

        monkeypatch.setattr(JobStore, "delete", delete)
        assert (await http.delete(f"/v1/videos/{video_id}")).status_code == 503 and folder.exists(), "not full"
        monkeypatch.setattr(video_service, "FULL_BELOW", 2**62)
        assert (await http.delete(f"/v1/videos/{video_id}")).json()["deleted"] is True
        assert (await http.get(f"/v1/videos/{video_id}")).status_code == 404 and not folder.exists()


@pytest.mark.parametrize("call", ["lockf", "flock"])
def test_a_file_system_without_locks_is_told_at_the_start_with_a_way_out(call, path, monkeypatch) -> None:
    def no_locks(*_) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folders.fcntl, call, no_locks)
    with pytest.raises(ConfigError, match=f"{path.parent} cannot be locked.*NFS.*PAFU_DATA_DIR"):
        folders.check_data_dir(path.parent)
    with pytest.raises(StoreError, match="cannot be locked"):
        JobStore(f"sqlite:///{path}")


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_database_ends_the_start_with_its_name_and_a_way_out(damage, path) -> None:
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match=f"{path.name}.*PAFU_DATA_DIR.*Restore in docs"):
        database_module.check(Settings(data_dir=path.parent))
