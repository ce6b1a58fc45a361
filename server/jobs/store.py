"""The job store, in SQLite or PostgreSQL.

A server works on a job under a **lease**. The row's ``fence`` is the number of the claim; every write names it, so the
store refuses a holder whose lease was taken over. Timestamps do not decide whether a holder is alive, since wall clocks
may jump: its ``beat`` counts up, and a server that sees no new beat for a whole lease on its own monotonic clock takes
the job over (server.jobs.lease_monitor).

Methods block; call them from threads. Any of them may raise StoreUnavailable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Row,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from server.jobs.connections import Connections
from server.jobs.errors import IdempotencyConflict, LeaseLost
from server.jobs.job import UNFINISHED, VISIBLE, Job, Lease, Order, Results, StoredChunk
from server.jobs.schema import chunks, jobs
from server.states import JobState


class JobStore:
    """Jobs in a database. ``wall_clock`` is the source of displayed timestamps."""

    def __init__(self, url: str, wall_clock: Callable[[], float] = time.time) -> None:
        """``url``: an SQLAlchemy URL. Creates missing tables. Raises StoreError or StoreUnavailable."""
        self._clock = wall_clock
        self._connections = Connections(url)
        self._read, self._write = self._connections.read, self._connections.write

    def close(self) -> None:
        self._connections.close()

    # ---- for callers

    def add(
        self,
        job_id: str,
        caller: str,
        order: Order,
        *,
        remixed_from: str | None = None,
        given: Sequence[StoredChunk] = (),
        idempotency: tuple[str, str] | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job that starts with the chunks ``given``; returns the job and whether it is new.

        ``idempotency`` is the caller's key and a digest of the request; the same pair returns the existing job. Raises
        IdempotencyConflict if the digest differs.
        """
        key, digest = idempotency or (None, None)
        row = {
            "id": job_id,
            "caller": caller,
            "state": JobState.QUEUED.value,
            "model": order.model,
            "order": msgspec.json.encode(order).decode(),
            "remixed_from": remixed_from,
            "idempotency_key": key,
            "idempotency_digest": digest,
            "chunks": len(given),
            "created_at": self._clock(),
        }
        try:
            with self._write() as connection:
                connection.execute(insert(jobs).values(row))
                for chunk in given:
                    connection.execute(insert(chunks).values(job=job_id, **msgspec.structs.asdict(chunk)))
                return _one(connection, jobs.c.id == job_id), True
        except IntegrityError:
            if key is None:
                raise
        return self._earlier(caller, key, digest), False

    def _earlier(self, caller: str, key: str, digest: str | None) -> Job:
        with self._read() as connection:
            same = (jobs.c.caller == caller) & (jobs.c.idempotency_key == key)
            row = connection.execute(select(jobs).where(same)).one()
        if row.idempotency_digest != digest:
            raise IdempotencyConflict(f"idempotency key {key!r} was used for a different request; use a new key")
        return _job(row)

    def has_key(self, caller: str, key: str) -> bool:
        """Whether the caller has used this idempotency key."""
        with self._read() as connection:
            same = (jobs.c.caller == caller) & (jobs.c.idempotency_key == key)
            return connection.execute(select(jobs.c.id).where(same)).first() is not None

    def get(self, job_id: str, caller: str | None = None) -> Job | None:
        """The job, if it exists and belongs to ``caller`` (None: any caller)."""
        with self._read() as connection:
            row = connection.execute(select(jobs).where(_visible(caller), jobs.c.id == job_id)).one_or_none()
        return None if row is None else _job(row)

    def page(self, caller: str | None, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Up to ``limit`` jobs after job ``after``, and whether there are more.

        A recently deleted job still works as ``after``. Raises KeyError if ``after`` is unknown.
        """
        wanted = _visible(caller)
        with self._read() as connection:
            if after is not None:
                mine = jobs.c.id == after if caller is None else (jobs.c.id == after) & (jobs.c.caller == caller)
                place = connection.execute(select(jobs.c.number).where(mine)).scalar_one_or_none()
                if place is None:
                    raise KeyError(after)
                wanted &= jobs.c.number < place if newest_first else jobs.c.number > place
            way = jobs.c.number.desc() if newest_first else jobs.c.number.asc()
            rows = connection.execute(select(jobs).where(wanted).order_by(way).limit(limit + 1)).all()
        return [_job(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, job_id: str, caller: str | None = None) -> bool:
        """Mark the job as deleted, which also invalidates its lease; False if there is no such job."""
        with self._write() as connection:
            change = update(jobs).where(_visible(caller), jobs.c.id == job_id)
            gone = change.values(
                state=JobState.DELETED.value,
                idempotency_key=None,
                finished_at=self._clock(),
                results=None,
            )
            return connection.execute(gone).rowcount == 1

    def chunks(self, job_id: str) -> list[StoredChunk]:
        """The finished chunks, in order."""
        with self._read() as connection:
            rows = connection.execute(select(chunks).where(chunks.c.job == job_id).order_by(chunks.c.number)).all()
        return [StoredChunk(number=row.number, media=row.media, past=row.past) for row in rows]

    def counts(self) -> dict[JobState, int]:
        """Jobs by state."""
        with self._read() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return dict.fromkeys(VISIBLE, 0) | {JobState(state): count for state, count in rows}

    def unfinished(self, caller: str | None = None) -> int:
        """Number of queued and running jobs, of one caller or of all."""
        waiting = jobs.c.state.in_([state.value for state in UNFINISHED])
        mine = waiting if caller is None else waiting & (jobs.c.caller == caller)
        with self._read() as connection:
            return connection.execute(select(func.count()).select_from(jobs).where(mine)).scalar_one()

    def waiting_since(self) -> float | None:
        """Creation time (wall clock) of the oldest queued job, or None."""
        with self._read() as connection:
            waiting = select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.QUEUED.value)
            since: float | None = connection.execute(waiting).scalar_one()
        return since

    # ---- for lease holders

    def claim(self, model: str) -> tuple[Job, Lease] | None:
        """Claim the oldest queued job, or None."""
        first = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED.value, jobs.c.model == model)
        first = first.order_by(jobs.c.number).limit(1).with_for_update(skip_locked=True)
        return self._take(jobs.c.id == first.scalar_subquery(), {"failures": jobs.c.failures})

    def held(self, model: str) -> dict[Lease, int]:
        """All leases with their beats, for the lease monitor."""
        running = select(jobs.c.id, jobs.c.fence, jobs.c.beat)
        running = running.where(jobs.c.state == JobState.RUNNING.value, jobs.c.model == model)
        with self._read() as connection:
            return {Lease(row.id, row.fence): row.beat for row in connection.execute(running)}

    def take_over(self, lease: Lease, beat: int) -> tuple[Job, Lease] | None:
        """Take over a job whose lease has lapsed; None if its beat has changed meanwhile."""
        return self._take(_holds(lease) & (jobs.c.beat == beat), {"failures": jobs.c.failures + 1})

    def _take(self, which: ColumnElement[bool], more: dict[str, Any]) -> tuple[Job, Lease] | None:
        values = {
            "state": JobState.RUNNING.value,
            "fence": jobs.c.fence + 1,
            "beat": jobs.c.beat + 1,
            **more,
        }
        with self._write() as connection:
            row = connection.execute(update(jobs).where(which).values(values).returning(jobs)).one_or_none()
        return None if row is None else (_job(row), Lease(row.id, row.fence))

    def admitted(self, lease: Lease) -> None:
        """A worker has started the job, which now counts as in progress. Raises LeaseLost."""
        started = func.coalesce(jobs.c.started_at, self._clock())
        self._change(lease, {"started_at": started, "beat": jobs.c.beat + 1})

    def beat(self, lease: Lease) -> None:
        """Record a heartbeat. Raises LeaseLost."""
        self._change(lease, {"beat": jobs.c.beat + 1})

    def add_chunk(self, lease: Lease, chunk: StoredChunk, seconds: float) -> None:
        """Record a chunk whose files are durable; it took ``seconds``. Raises LeaseLost.

        Idempotent: may be retried with the same chunk.
        """
        values = {
            "chunks": chunk.number + 1,
            "beat": jobs.c.beat + 1,
            "failures": 0,
            "work_seconds": jobs.c.work_seconds + seconds,
        }
        with self._write() as connection:
            change = update(jobs).where(_holds(lease), jobs.c.chunks == chunk.number).values(values)
            if connection.execute(change).rowcount:
                connection.execute(insert(chunks).values(job=lease.job_id, **msgspec.structs.asdict(chunk)))
                return
            there = select(chunks.c.media).where(chunks.c.job == lease.job_id, chunks.c.number == chunk.number)
            if connection.execute(there).scalar_one_or_none() != chunk.media:
                raise _lost(lease)

    def finish(self, lease: Lease, results: Results, keep_seconds: float) -> None:
        """Complete a job whose result files are durable, to be kept for ``keep_seconds``. Idempotent. Raises
        LeaseLost."""
        now, written = self._clock(), msgspec.json.encode(results).decode()
        done = {"state": JobState.COMPLETED.value, "results": written, "finished_at": now}
        try:
            self._change(lease, {**done, "expires_at": now + keep_seconds})
        except LeaseLost:
            with self._read() as connection:
                mine = select(jobs.c.results).where(jobs.c.id == lease.job_id, jobs.c.fence == lease.fence)
                if connection.execute(mine).scalar_one_or_none() != written:
                    raise

    def fail(self, lease: Lease, code: str, message: str, keep_seconds: float) -> None:
        """Mark the job as failed. Raises LeaseLost."""
        now = self._clock()
        why = {"error_code": code, "error_message": message[:4000]}
        end = {"state": JobState.FAILED.value, "finished_at": now, "expires_at": now + keep_seconds}
        self._change(lease, {**why, **end})

    def release(self, lease: Lease, failed: bool) -> None:
        """Return the job to the queue with its chunks; ``failed`` counts as a failure. Raises LeaseLost."""
        failures = jobs.c.failures + 1 if failed else jobs.c.failures
        self._change(lease, {"state": JobState.QUEUED.value, "failures": failures})

    def _change(self, lease: Lease, values: dict[str, Any]) -> None:
        with self._write() as connection:
            if not connection.execute(update(jobs).where(_holds(lease)).values(values)).rowcount:
                raise _lost(lease)

    # ---- housekeeping

    def finished(self) -> list[Job]:
        """All completed and failed jobs, oldest first."""
        over = jobs.c.state.in_([JobState.COMPLETED.value, JobState.FAILED.value])
        with self._read() as connection:
            rows = connection.execute(select(jobs).where(over).order_by(jobs.c.finished_at, jobs.c.number)).all()
        return [_job(row) for row in rows]

    def deleted(self, before: float = float("inf")) -> list[str]:
        """Ids of the tombstones of jobs deleted before this wall-clock time."""
        gone = (jobs.c.state == JobState.DELETED.value) & (jobs.c.finished_at < before)
        with self._read() as connection:
            return list(connection.execute(select(jobs.c.id).where(gone)).scalars())

    def forget(self, job_id: str) -> None:
        """Remove a deleted job's row, after its files."""
        with self._write() as connection:
            connection.execute(delete(chunks).where(chunks.c.job == job_id))
            gone = (jobs.c.id == job_id) & (jobs.c.state == JobState.DELETED.value)
            connection.execute(delete(jobs).where(gone))

    def known(self, ids: Sequence[str]) -> set[str]:
        """The ``ids`` that have a row, including deleted jobs."""
        with self._read() as connection:
            return set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(ids))).scalars())


def _visible(caller: str | None) -> ColumnElement[bool]:
    there = jobs.c.state != JobState.DELETED.value
    return there if caller is None else there & (jobs.c.caller == caller)


def _holds(lease: Lease) -> ColumnElement[bool]:
    running = jobs.c.state == JobState.RUNNING.value
    return (jobs.c.id == lease.job_id) & (jobs.c.fence == lease.fence) & running


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"job {lease.job_id} is no longer held under fence {lease.fence}")


def _one(connection: Connection, which: ColumnElement[bool]) -> Job:
    return _job(connection.execute(select(jobs).where(which)).one())


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        number=row.number,
        caller=row.caller,
        state=JobState(row.state),
        order=msgspec.json.decode(row.order, type=Order),
        remixed_from=row.remixed_from,
        fence=row.fence,
        beat=row.beat,
        failures=row.failures,
        chunks=row.chunks,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        work_seconds=row.work_seconds,
        error_code=row.error_code,
        error_message=row.error_message,
        results=None if row.results is None else msgspec.json.decode(row.results, type=Results),
    )
