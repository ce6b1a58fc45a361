"""Promise: on both databases, no job is lost, and no two owners can both write."""

from __future__ import annotations

import threading

import pytest

from server.jobs.connections import database_url
from server.jobs.errors import IdempotencyConflict, LeaseLost, StoreError, StoreUnavailable
from server.jobs.job import Lease, Results, StoredChunk
from server.jobs.store import JobStore
from server.states import JobState

RESULTS = Results(video="j/video.mp4", thumbnail="j/t.webp", spritesheet="j/s.jpg", nbytes=5)


def chunk(number: int, tag: str = "1") -> StoredChunk:
    return StoredChunk(number=number, media=f"j/{number}-{tag}.m4s", past=f"j/{number}-{tag}.past")


def add(store: JobStore, order, name: str, caller: str = "me", **options):
    return store.add(name, caller, order(), **options)[0]


def test_a_job_comes_back_as_it_was_given(store, order) -> None:
    given = order(prompt="a \u2603 with 'quotes' and \\", seed=2**63 - 1, pictures=7)
    job, new = store.add("a", "me", given, remixed_from="b")
    assert new and store.get("a") == job
    assert (job.order, job.state, job.remixed_from, job.chunks, job.results) == (given, JobState.QUEUED, "b", 0, None)


def test_jobs_survive_the_server(stores, order) -> None:
    first = stores()
    add(first, order, "a")
    job, lease = first.claim("test-tiny")
    first.add_chunk(lease, chunk(0), 0.5)
    first.close()
    again = stores()
    assert again.get("a").chunks == 1 and again.chunks("a") == [chunk(0)]
    assert again.held("test-tiny") == {lease: 2}


def test_the_oldest_is_claimed_first_and_only_of_the_own_model(store, order) -> None:
    store.add("other", "me", order(model="pafu-mini"))
    add(store, order, "a"), add(store, order, "b")
    claimed = [store.claim("test-tiny") for _ in range(3)]
    assert [taken and taken[0].id for taken in claimed] == ["a", "b", None]
    assert claimed[0][0].state is JobState.RUNNING and claimed[0][0].started_at is None
    store.admitted(claimed[0][1])
    assert store.get("a").started_at is not None


def test_many_servers_at_once_claim_every_job_exactly_once(stores, order) -> None:
    first = stores()
    for number in range(24):
        add(first, order, f"j{number}")
    taken: list[str] = []
    start = threading.Barrier(4)

    def claim_all(store: JobStore) -> None:
        start.wait()
        while found := store.claim("test-tiny"):
            taken.append(found[0].id)

    threads = [threading.Thread(target=claim_all, args=(stores(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"j{number}" for number in range(24))


def test_a_holder_who_was_given_up_cannot_write_any_more(store, order) -> None:
    add(store, order, "a")
    _, old = store.claim("test-tiny")
    store.add_chunk(old, chunk(0, "old"), 0.1)
    taken = store.take_over(old, store.held("test-tiny")[old])
    assert taken is not None
    job, new = taken
    assert (job.chunks, new.fence, job.failures) == (1, old.fence + 1, 1)
    refused(store, old)
    store.add_chunk(new, chunk(1, "new"), 0.1)
    assert [c.media for c in store.chunks("a")] == ["j/0-old.m4s", "j/1-new.m4s"]


def test_a_sign_of_life_prevents_the_take_over(store, order) -> None:
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    seen = store.held("test-tiny")[lease]
    store.beat(lease)
    assert store.take_over(lease, seen) is None
    assert store.take_over(lease, seen + 1) is not None


def test_a_job_that_is_admitted_gives_a_sign_of_life_and_began_when_it_first_was(stores, order) -> None:
    now = 1e9
    store = stores(wall_clock=lambda: now)
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    seen = store.held("test-tiny")[lease]
    store.admitted(lease)
    assert store.held("test-tiny")[lease] > seen and store.get("a").started_at == now
    store.release(lease, failed=False)
    now += 60
    store.admitted(store.claim("test-tiny")[1])
    assert store.get("a").started_at == now - 60


def test_of_two_who_take_over_at_once_one_wins(stores, order) -> None:
    one, two = stores(), stores()
    add(one, order, "a")
    _, lease = one.claim("test-tiny")
    beat = two.held("test-tiny")[lease]
    assert (one.take_over(lease, beat) is None) != (two.take_over(lease, beat) is None)


def test_a_chunk_reported_twice_counts_once_and_out_of_order_not_at_all(store, order) -> None:
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    for _ in range(2):
        store.add_chunk(lease, chunk(0), 0.5)
    assert store.get("a").chunks == 1 and store.get("a").work_seconds == 0.5
    with pytest.raises(LeaseLost):
        store.add_chunk(lease, chunk(0, "another"), 0.5)
    with pytest.raises(LeaseLost):
        store.add_chunk(lease, chunk(2), 0.5)


def test_done_once_told_twice_stays_done(store, order) -> None:
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    for _ in range(2):
        store.finish(lease, RESULTS, 60)
    job = store.get("a")
    assert (job.state, job.results) == (JobState.COMPLETED, RESULTS)
    assert job.expires_at == pytest.approx(job.finished_at + 60)
    other = Results(video="j/other.mp4", thumbnail="t", spritesheet="s", nbytes=1)
    with pytest.raises(LeaseLost):
        store.finish(lease, other, 60)


def test_a_released_job_is_claimed_again_and_failures_are_counted_until_a_chunk_is_made(store, order) -> None:
    add(store, order, "a")
    for failed, failures in ((True, 1), (False, 1), (True, 2)):
        _, lease = store.claim("test-tiny")
        store.release(lease, failed)
        assert store.get("a").state is JobState.QUEUED and store.get("a").failures == failures
    _, lease = store.claim("test-tiny")
    store.add_chunk(lease, chunk(0), 0.1)
    assert store.get("a").failures == 0


def test_a_failed_job_says_why(store, order) -> None:
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    store.fail(lease, "generation_failed", "it exploded", 60)
    job = store.get("a")
    assert (job.state, job.error_code, job.error_message) == (JobState.FAILED, "generation_failed", "it exploded")
    assert store.claim("test-tiny") is None


@pytest.mark.parametrize("running", [True, False])
def test_a_deleted_job_is_gone_and_its_holder_is_refused(store, order, running) -> None:
    add(store, order, "a")
    lease = store.claim("test-tiny")[1] if running else Lease("a", 0)
    assert store.delete("a", "somebody else") is False
    assert store.delete("a", "me") is True
    assert store.get("a") is None and store.delete("a", "me") is False and store.claim("test-tiny") is None
    assert store.held("test-tiny") == {} and store.deleted() == ["a"]
    refused(store, lease)
    store.forget("a")
    assert store.deleted() == [] and store.known(["a"]) == set()
    refused(store, lease)


def test_a_video_deleted_before_its_holder_knew_that_it_was_done_stays_deleted(store, order) -> None:
    add(store, order, "a")
    _, lease = store.claim("test-tiny")
    store.finish(lease, RESULTS, 60)
    store.delete("a", "me")
    refused(store, lease)
    assert store.get("a") is None and store.finished() == []


def refused(store: JobStore, lease: Lease) -> None:
    """All writes of a former owner are refused."""
    for write in (
        lambda: store.admitted(lease),
        lambda: store.beat(lease),
        lambda: store.add_chunk(lease, chunk(0), 0.1),
        lambda: store.add_chunk(lease, chunk(1), 0.1),
        lambda: store.finish(lease, RESULTS, 60),
        lambda: store.fail(lease, "x", "y", 60),
        lambda: store.release(lease, failed=False),
    ):
        with pytest.raises(LeaseLost):
            write()


def test_pages_follow_cursors_in_the_order_of_creation_whatever_the_clock_says(stores, order) -> None:
    clock = iter([1000.0, 10.0, 5000.0, 1.0, 3.0])
    store = stores(wall_clock=lambda: next(clock))
    for name in "abcde":
        add(store, order, name)

    def ids(**options) -> tuple[str, bool]:
        page, more = store.page(**{"caller": "me", "after": None, "limit": 2, "newest_first": True, **options})
        return "".join(job.id for job in page), more

    assert ids() == ("ed", True)
    assert ids(after="d") == ("cb", True)
    assert ids(after="b") == ("a", False)
    assert ids(newest_first=False, limit=4) == ("abcd", True)
    assert ids(newest_first=False, after="d") == ("e", False)
    assert ids(caller="somebody else") == ("", False)


def test_a_deleted_job_still_serves_as_a_cursor_but_only_to_its_caller(store, order, stores) -> None:
    for name in "abc":
        add(store, order, name)
    store.delete("b")
    assert [job.id for job in store.page("me", "b", 9, True)[0]] == ["a"]
    for unknown, caller in (("b", "somebody else"), ("x", "me")):
        with pytest.raises(KeyError):
            store.page(caller, unknown, 9, True)


def test_callers_see_only_their_own(store, order) -> None:
    add(store, order, "a", "me"), add(store, order, "b", "you")
    assert store.get("b", "me") is None and store.get("b", "you") is not None and store.get("b") is not None
    assert store.unfinished("me") == 1 and store.unfinished() == 2


def test_the_same_idempotency_key_gives_the_first_job_and_another_order_is_refused(store, order) -> None:
    first = add(store, order, "a", idempotency=("k", "digest"))
    again, new = store.add("b", "me", order(), idempotency=("k", "digest"))
    assert (again, new) == (first, False)
    with pytest.raises(IdempotencyConflict, match="'k'"):
        store.add("c", "me", order(), idempotency=("k", "other"))
    assert add(store, order, "d", "you", idempotency=("k", "other")).id == "d", "keys belong to callers"
    store.delete("a")
    assert add(store, order, "e", idempotency=("k", "digest")).id == "e"


def test_one_idempotency_key_from_many_servers_at_once_makes_one_job(stores, order) -> None:
    made: list[str] = []
    start = threading.Barrier(6)

    def order_it(store: JobStore, name: str) -> None:
        start.wait()
        made.append(store.add(name, "me", order(), idempotency=("k", "d"))[0].id)

    threads = [threading.Thread(target=order_it, args=(stores(), f"j{n}")) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6 and len(set(made)) == 1


def test_a_job_may_begin_with_chunks_that_exist(store, order) -> None:
    job, _ = store.add("a", "me", order(), given=[chunk(0), chunk(1)])
    assert job.chunks == 2 and store.chunks("a") == [chunk(0), chunk(1)]


def test_counts_and_ages(stores, order) -> None:
    store = stores(wall_clock=lambda: 77.0)
    assert store.waiting_since() is None and set(store.counts().values()) == {0}
    add(store, order, "a"), add(store, order, "b")
    store.claim("test-tiny")
    assert store.counts()[JobState.QUEUED] == store.counts()[JobState.RUNNING] == 1
    assert store.waiting_since() == 77.0


@pytest.mark.parametrize("bad", ["mysql://u@h/d", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_a_database_that_cannot_work_is_named(bad, tmp_path) -> None:
    with pytest.raises(StoreError):
        JobStore(database_url(bad, tmp_path))


def test_nobody_there_is_unavailable_and_not_a_crash(tmp_path) -> None:
    with pytest.raises(StoreUnavailable):
        JobStore(database_url("postgresql://pafu@127.0.0.1:1/none", tmp_path))
