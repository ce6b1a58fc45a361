"""Promise: the viewer who would stall first is served first; viewers who are ahead, paused or gone cost nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.worker.scheduler import Playout, choose, leaves_room, seconds_until_due

CHUNK = 0.75


def begin_and_send(playout: Playout) -> None:
    playout.add_generated(CHUNK)
    playout.add_sent(CHUNK)


def clock(chunks: int, limit: float = 1.25, at: float = 0.0) -> Playout:
    """The playout clock of a session with this many chunks generated and delivered at time ``at``."""
    playout = Playout(limit)
    for _ in range(chunks):
        begin_and_send(playout)
        playout.add_delivered(CHUNK, at)
    return playout


def test_a_new_session_is_due_at_once() -> None:
    assert Playout(1.25).wait(100.0) == 0.0


def test_without_reports_the_viewer_plays_in_real_time_from_the_first_delivery() -> None:
    playout = clock(2, at=10.0)
    assert [playout.playhead(now) for now in (10.0, 10.5, 11.5, 99.0)] == [0.0, 0.5, 1.5, 1.5]


def test_time_without_anything_to_play_is_a_stall_and_not_progress() -> None:
    playout = clock(1, at=0.0)
    begin_and_send(playout)
    playout.add_delivered(CHUNK, 10.0)  # the viewer ran dry at 0.75 and waited
    assert playout.playhead(10.25) == pytest.approx(1.0)


def test_the_lead_is_bounded_by_the_limit_and_the_wait_leads_to_the_moment_it_is_not() -> None:
    playout = clock(2, at=0.0)  # 1.5 s ahead of a limit of 1.25 s
    assert playout.wait(0.0) == pytest.approx(0.25, abs=0.01)
    assert playout.wait(0.0 + playout.wait(0.0)) == 0.0


def test_a_reported_playhead_counts_instead_of_the_clock() -> None:
    playout = clock(2, at=0.0)
    playout.report(0.0)
    assert playout.lead(100.0) == 1.5 and playout.wait(100.0) == math.inf  # paused
    playout.report(0.5)
    assert playout.wait(100.0) == 0.0


def test_a_viewer_cannot_have_played_what_was_not_delivered() -> None:
    playout = clock(1)
    begin_and_send(playout)
    playout.report(1e9)
    assert playout.playhead(0.0) == CHUNK


def test_undelivered_media_counts_as_lead_so_nothing_is_generated_for_a_viewer_who_does_not_read() -> None:
    playout = Playout(10.0)
    while playout.wait(0.0) == 0.0:
        begin_and_send(playout)
    assert playout.generated == CHUNK <= 1.0 and playout.wait(1e6) == math.inf
    playout.add_delivered(CHUNK, 0.0)
    assert playout.wait(0.0) == 0.0


def test_the_least_slack_is_served_first() -> None:
    sessions = {"ahead": clock(1, at=1.0), "behind": clock(1, at=0.5), "paused": clock(3, at=0.0)}
    sessions["paused"].report(0.0)
    assert choose(sessions.items(), 1.0) == "behind"
    assert choose([("paused", sessions["paused"])], 1.0) is None
    assert choose([], 1.0) is None


@pytest.mark.parametrize(("viewers", "seconds"), [(7, 0.19), (8, 0.15), (12, 0.14), (3, 2.0)])
def test_an_overloaded_worker_starves_nobody(viewers: int, seconds: float) -> None:
    playouts, made, now = [clock(0) for _ in range(viewers)], [0] * viewers, 0.0
    for _ in range(20 * viewers):
        chosen = choose(enumerate(playouts), now)
        assert chosen is not None, "nobody is ever ahead"
        now += seconds
        begin_and_send(playouts[chosen])
        playouts[chosen].add_delivered(CHUNK, now)
        made[chosen] += 1
    assert max(made) - min(made) <= 2, made


def test_a_recorder_who_takes_faster_than_real_time_gets_only_what_viewers_leave_over() -> None:
    recorder, viewer = clock(8, limit=1.25, at=0.0), clock(2, limit=1.25, at=0.0)
    recorder.report(6.0)  # took all at once: no lead
    viewer.report(1.0)
    assert (recorder.lead(1.0), viewer.lead(1.0)) == (0.0, 0.5)
    assert choose([("recorder", recorder), ("viewer", viewer)], 1.0) == "viewer"
    viewer.report(0.0)
    assert choose([("recorder", recorder), ("viewer", viewer)], 1.0) == "recorder"


def test_other_work_may_go_first_only_while_nobody_would_run_dry_for_it() -> None:
    early, late = clock(2, limit=1.0, at=0.0), clock(2, limit=1.0, at=0.4)  # slack at 0.4: 1.1 s and 1.5 s
    live = [(late, 0.3), (early, 0.3)]
    assert leaves_room(live, 0.8, 0.4), "0.8 + 0.3 <= 1.1 and 0.8 + 0.6 <= 1.5"
    assert not leaves_room(live, 0.85, 0.4), "the earlier one would run dry"
    assert not leaves_room([(late, 0.5), (early, 0.3)], 0.75, 0.4), "the later one would: 0.75 + 0.3 + 0.5 > 1.5"
    early.report(0.0)
    late.report(0.0)
    assert leaves_room(live, 1e9, 0.4), "paused viewers need nothing"
    assert leaves_room([], 1e9, 0.4)


def test_a_worker_sleeps_until_the_first_session_is_due() -> None:
    early, late = clock(2, at=0.0), clock(2, at=0.2)
    assert seconds_until_due([early, late], 0.2, 9.0) == early.wait(0.2)
    assert seconds_until_due([], 0.2, 9.0) == 9.0


@given(st.lists(st.tuples(st.sampled_from(["make", "deliver", "report", "tick"]), st.floats(0, 5)), max_size=60))
def test_whatever_happens_the_playhead_stays_inside_what_was_delivered(steps) -> None:
    playout, now, undelivered = Playout(1.25), 0.0, 0
    for kind, amount in steps:
        if kind == "make" and playout.wait(now) == 0.0:
            begin_and_send(playout)
            undelivered += 1
        elif kind == "deliver" and undelivered:
            playout.add_delivered(CHUNK, now)
            undelivered -= 1
        elif kind == "report":
            playout.report(amount * 3 - 2)
        now += amount if kind == "tick" else 0
        assert 0.0 <= playout.playhead(now) <= playout.delivered <= playout.generated + 1e-9
        assert playout.lead(now) < playout.limit + CHUNK or playout.wait(now) > 0
        assert playout.slack(now) >= playout.lead(now) - 1e-9


def test_a_chunk_that_is_begun_counts_as_ahead_though_it_is_not_sent() -> None:
    """The next chunk may begin while one is decoded, but never one more than the viewer's lead allows."""
    playout = clock(1, limit=1.25 + CHUNK)
    playout.add_generated(CHUNK)
    assert playout.wait(0.0) == 0.0, "the next chunk waits for the decoder"
    playout.add_generated(CHUNK)
    assert playout.lead(0.0) == 3 * CHUNK and playout.wait(0.0) > 0


def test_a_viewer_who_has_read_nothing_gets_no_second_chunk() -> None:
    playout = Playout(1e9)
    playout.add_generated(CHUNK)
    assert playout.wait(0.0) == math.inf
