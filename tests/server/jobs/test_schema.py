"""Promise: databases of earlier versions are migrated without loss; those of newer versions are not touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from server.jobs import schema
from server.jobs.connections import Connections, as_it_is
from server.jobs.errors import StoreError, StoreUnavailable
from server.jobs.job import StoredChunk
from server.jobs.store import JobStore
from server.states import JobState

STEPS = (
    ("ALTER TABLE pafu_jobs ADD COLUMN colour VARCHAR(8)", "UPDATE pafu_jobs SET colour = 'red'"),
    ("UPDATE pafu_jobs SET colour = colour || '!'",),
)


def run(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def schema1(url: str) -> str:
    """A database of the first Pafu version, with a finished and a queued job."""
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True) if "sqlite" in url else None
    script = Path(__file__).parent / f"schema1.{'sqlite' if 'sqlite' in url else 'postgresql'}.sql"
    lines = (line for line in script.read_text().splitlines() if not line.startswith("--"))
    run(url, *(part.replace(":", r"\:") for part in "\n".join(lines).split(";\n") if part.strip()))
    return url


def shape(url: str) -> dict[str, object]:
    """Tables with their columns, indexes and keys, as the database reports them."""
    engine = create_engine(url)
    look = inspect(engine)
    found = {
        name: (
            {column["name"]: (str(column["type"]), column["nullable"]) for column in look.get_columns(name)},
            sorted((str(index["name"]), tuple(index["column_names"])) for index in look.get_indexes(name)),
            look.get_pk_constraint(name)["constrained_columns"],
            sorted(tuple(rule["column_names"]) for rule in look.get_unique_constraints(name)),
        )
        for name in look.get_table_names()
    }
    engine.dispose()
    return found


def test_the_jobs_of_schema_1_are_all_there_and_go_on(schema1, stores) -> None:
    store = stores()
    done = store.get("done")
    assert (done.state, done.results.video, done.chunks) == (JobState.COMPLETED, "done/video.mp4", 2)
    assert store.chunks("done")[1] == StoredChunk(number=1, media="done/1.m4s", past="done/1.past")
    job, lease = store.claim("test-tiny")
    assert (job.id, job.order.prompt, job.remixed_from) == ("waiting", "a mill's sail", "done")
    store.add_chunk(lease, StoredChunk(number=0, media="m", past="p"), 0.5)
    assert store.add("third", "me", job.order)[0].number == 3


def test_a_migrated_database_has_the_shape_of_a_new_one(schema1, stores, tmp_path, request) -> None:
    """Fails if a table was changed without a migration."""
    stores().close()
    migrated = shape(schema1)
    if "sqlite" in schema1:
        fresh = f"sqlite:///{tmp_path / 'fresh.sqlite'}"
    else:
        fresh = request.getfixturevalue("empty_postgres")
    JobStore(fresh).close()
    assert migrated == shape(fresh)


def test_steps_are_taken_once_and_in_order(schema1, stores, monkeypatch) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", STEPS)
    for _ in range(2):
        store = stores()
        with store._read() as connection:
            assert set(connection.execute(text("SELECT colour FROM pafu_jobs")).scalars()) == {"red!"}
            assert connection.execute(text("SELECT value FROM pafu_meta")).scalar_one() == "3"


def test_a_step_that_fails_leaves_the_database_as_it_was(schema1, stores, monkeypatch) -> None:
    before = shape(schema1)
    monkeypatch.setattr(schema, "MIGRATIONS", (*STEPS, ("UPDATE no_such_table SET x = 1",)))
    with pytest.raises((StoreUnavailable, SQLAlchemyError)):
        stores()
    monkeypatch.setattr(schema, "MIGRATIONS", ())
    assert shape(schema1) == before and stores().get("done").chunks == 2


def test_a_database_of_a_newer_pafu_is_not_touched(stores, url) -> None:
    stores()
    run(url, "UPDATE pafu_meta SET value = '999'")
    with pytest.raises(StoreError, match=r"schema 999, this Pafu supports 1 to \d+: a newer Pafu has used it"):
        JobStore(url)


@pytest.mark.parametrize(
    ("done", "why"),
    [
        ("UPDATE pafu_meta SET value = 'banana'", "its schema is 'banana'"),
        ("UPDATE pafu_meta SET value = '0'", "its schema is '0'"),
        ("DELETE FROM pafu_meta", "its schema is None"),
        ("DROP TABLE pafu_chunks", "it has no table pafu_chunks"),
    ],
)
def test_a_damaged_database_is_named_as_such(stores, url, done, why) -> None:
    stores()
    run(url, done)
    with pytest.raises(StoreError, match=f"the job database is damaged: {why}; restore it"):
        JobStore(url)


def test_who_only_looks_migrates_nothing(schema1) -> None:
    """pafu doctor of a newer version beside a running older server."""
    before = shape(schema1)
    with as_it_is(schema1) as connection:
        assert connection is not None
    assert shape(schema1) == before
    Connections(schema1).close()
    assert shape(schema1) != before
