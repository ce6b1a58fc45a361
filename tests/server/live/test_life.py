"""Promise: a session is always in one declared phase, every phase is reachable, and the end is final."""

from __future__ import annotations

from server.live.life import TRANSITIONS, Phase, WorkerLosses


def reachable(begin: Phase) -> set[Phase]:
    seen, new = {begin}, {begin}
    while new:
        new = {after for phase in new for after in TRANSITIONS[phase]} - seen
        seen |= new
    return seen


def test_every_phase_is_declared_reached_and_can_end() -> None:
    assert set(TRANSITIONS) == set(Phase) == reachable(Phase.IDLE)
    assert all(Phase.ENDED in reachable(phase) for phase in Phase)
    assert TRANSITIONS[Phase.ENDED] == set()


def test_an_end_that_was_asked_for_is_not_taken_back() -> None:
    assert reachable(Phase.STOPPING) == {Phase.STOPPING, Phase.ENDED}


def test_three_losses_with_less_than_two_chunks_between_them_are_too_many() -> None:
    losses = WorkerLosses()
    assert not losses.too_many()
    losses.made_chunk()
    assert [losses.too_many(), losses.too_many()] == [False, True]


def test_chunks_between_losses_excuse_them() -> None:
    losses = WorkerLosses()
    for _ in range(10):
        losses.made_chunk()
        losses.made_chunk()
        assert not losses.too_many()
