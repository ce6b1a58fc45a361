"""The tables of the job store and their migrations.

When you change a table, append the statements that migrate to it to MIGRATIONS; they must work on SQLite and
PostgreSQL. Orders and results are JSON in a column: a new field there needs a default but no migration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
    text,
    update,
)

from server.jobs.errors import StoreError

log = logging.getLogger("pafu.jobs")
FIRST = 1  # the schema version before all MIGRATIONS
MIGRATIONS: Sequence[Sequence[str]] = (  # one sequence of statements per version
    (
        "CREATE TABLE pafu_sessions "
        "(id VARCHAR(64) NOT NULL PRIMARY KEY, fence INTEGER NOT NULL, used_at FLOAT NOT NULL)",
    ),
)

Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements only INTEGER
metadata = MetaData()
meta = Table("pafu_meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))
jobs = Table(
    "pafu_jobs",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),  # order of creation, independent of the clock
    Column("id", String(64), nullable=False, unique=True),
    Column("caller", String(256), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("model", String(128), nullable=False),
    Column("order", Text, nullable=False),
    Column("remixed_from", String(64)),
    Column("idempotency_key", String(256)),
    Column("idempotency_digest", String(64)),
    Column("fence", Integer, nullable=False, default=0),
    Column("beat", BigInteger, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("chunks", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("expires_at", Float),
    Column("work_seconds", Float, nullable=False, default=0.0),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("results", Text),
    UniqueConstraint("caller", "idempotency_key"),
)
chunks = Table(
    "pafu_chunks",
    metadata,
    Column("job", String(64), ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("media", Text, nullable=False),
    Column("past", Text, nullable=False),
    PrimaryKeyConstraint("job", "number"),
)
sessions = Table(
    "pafu_sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("used_at", Float, nullable=False),
)


def version(connection: Connection) -> int | None:
    """The database's schema version; None if it has no tables yet. Raises StoreError for a newer Pafu's, or if it is
    damaged."""
    look = inspect(connection)
    if not look.has_table(meta.name):
        return None
    said = connection.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar_one_or_none()
    there = int(said) if said is not None and said.isascii() and said.isdecimal() else 0
    lost = [table.name for table in (jobs, chunks) if not look.has_table(table.name)]
    if there < FIRST or lost:
        why = f"it has no table {lost[0]}" if lost else f"its schema is {said!r}"
        raise StoreError(f"the job database is damaged: {why}; restore it from a backup, or use another database")
    if there > FIRST + len(MIGRATIONS):
        raise StoreError(
            f"the job database has schema {there}, this Pafu supports {FIRST} to {FIRST + len(MIGRATIONS)}: a newer "
            "Pafu has used it; run that version, or use another database"
        )
    return there


def prepare(connection: Connection) -> None:
    """Create the tables or migrate an older database, in the transaction of ``connection``.

    Raises StoreError for a database of a newer version.
    """
    today, there = FIRST + len(MIGRATIONS), version(connection)
    if there is None:
        metadata.create_all(connection)
        connection.execute(insert(meta).values(name="schema", value=str(today)))
        return
    for step, statements in enumerate(MIGRATIONS[there - FIRST :], there + 1):
        log.info("migrating the job database to schema %d", step)
        for statement in statements:
            connection.execute(text(statement))
    connection.execute(update(meta).where(meta.c.name == "schema").values(value=str(today)))
