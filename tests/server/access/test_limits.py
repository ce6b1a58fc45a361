"""Promise: each key has its own limits, and a refused caller learns when to retry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.limits import ANONYMOUS, CONNECTIONS_PER_SESSION, Bucket, Caller, Limits
from server.access.tickets import MOST, Tickets
from server.errors import PafuError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(rate, burst, gaps) -> None:
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        taken += wait == 0
        assert taken <= burst + now * rate + 1e-6
        assert 0 <= wait <= 1 / rate + 1e-9


def test_a_caller_in_debt_waits_until_it_is_paid_even_after_a_quiet_time() -> None:
    bucket = Bucket(rate=10, burst=5, now=0.0)
    assert bucket.spend(5, 1000.0) == 0.0, "the burst, and no more"
    assert bucket.spend(20, 1000.0) == pytest.approx(2.0)
    assert bucket.spend(0, 1001.5) == pytest.approx(0.5)
    assert bucket.spend(0, 1002.0) == 0.0


def test_who_waits_as_long_as_was_said_is_let_through() -> None:
    clock = Clock()
    limits, caller = Limits(clock), Caller("alice", requests_per_minute=60)
    for _ in range(60):
        limits.request(caller)
    with pytest.raises(PafuError, match="60 requests per minute") as refused:
        limits.request(caller)
    limits.request(Caller("bob", requests_per_minute=1))
    assert refused.value.kind.status == 429 and refused.value.headers()["retry-after"] == "1"
    clock.now += refused.value.retry_after
    limits.request(caller)
    with pytest.raises(PafuError):
        limits.request(caller)


def test_a_changed_rate_holds_from_the_next_request_on() -> None:
    limits = Limits(Clock())
    limits.request(Caller("alice", requests_per_minute=1))
    limits.request(Caller("alice", requests_per_minute=2))
    limits.request(Caller("alice", requests_per_minute=2))
    with pytest.raises(PafuError):
        limits.request(Caller("alice", requests_per_minute=2))


def test_sessions_are_counted_by_key_and_freed_once() -> None:
    limits, alice, bob = Limits(), Caller("alice", max_sessions=2), Caller("bob", max_sessions=1)
    first, second = limits.acquire_session(alice), limits.acquire_session(alice)
    with pytest.raises(PafuError, match="2 of 2 sessions") as refused:
        limits.acquire_session(alice)
    assert refused.value.kind.code == "session_limit" and refused.value.headers()["retry-after"]
    with limits.acquire_session(bob):
        assert limits.sessions(bob) == 1
    assert limits.sessions(bob) == 0
    first.release()
    first.release()
    assert limits.sessions(alice) == 1
    limits.acquire_session(alice)
    second.release()


def test_connections_are_counted_beside_sessions_and_some_go_with_each() -> None:
    limits, alice = Limits(), Caller("alice", max_sessions=1)
    session = limits.acquire_session(alice)
    held = [limits.acquire_connection(alice) for _ in range(CONNECTIONS_PER_SESSION)]
    with pytest.raises(PafuError, match="4 of 4 connections") as refused:
        limits.acquire_connection(alice)
    assert refused.value.kind.code == "session_limit" and refused.value.headers()["retry-after"]
    limits.acquire_connection(Caller("bob", max_sessions=0))
    held[0].release()
    limits.acquire_connection(alice)
    assert limits.sessions(alice) == 1
    session.release()


def test_jobs_are_counted_by_their_store() -> None:
    limits = Limits()
    limits.check_job(ANONYMOUS, 10**6)
    limits.check_job(Caller("alice", max_jobs=2), 1)
    with pytest.raises(PafuError, match="2 of 2 unfinished jobs"):
        limits.check_job(Caller("alice", max_jobs=2), 2)


def test_a_ticket_works_once_and_not_too_late() -> None:
    clock = Clock()
    tickets, alice = Tickets(clock), Caller("alice")
    first, second = tickets.mint(alice, 60), tickets.mint(alice, 60)
    assert first.value != second.value and first.value.startswith("ek_")
    assert tickets.redeem(first.value) == alice
    assert tickets.redeem(first.value) is None
    assert tickets.redeem("ek_made-up") is None and tickets.redeem("") is None
    clock.now += 60
    assert tickets.redeem(second.value) is None


def test_unused_tickets_are_few_and_forgotten_in_time() -> None:
    clock = Clock()
    tickets, alice = Tickets(clock), Caller("alice")
    for _ in range(MOST):
        tickets.mint(alice, 60)
    with pytest.raises(PafuError, match=str(MOST)) as refused:
        tickets.mint(alice, 60)
    tickets.mint(Caller("bob"), 60)
    clock.now += refused.value.retry_after
    tickets.mint(alice, 60)
    assert len(tickets._unused) == 1
