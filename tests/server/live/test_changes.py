"""Promise: a change is waiting, sent or in force, never two of these; each worker gets it once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.stream.chunk_stats import ChunkStats, blank
from server.errors import PafuError
from server.ipc.messages import Fragment, Interact, PastChunk, ServedStats
from server.live.changes import Changes

STATS = blank(ChunkStats, cache_policy="window")


def change(event_id: str, chunks: int = 2) -> Interact:
    return Interact(session="s", event_id=event_id, prompt="new", camera=None, chunks=chunks)


def chunk(started: list[str]) -> Fragment:
    return Fragment(
        session="s",
        index=0,
        pictures=12,
        data=b"",
        started=started,
        active=[],
        completed=[],
        stats=ServedStats.of(STATS, {"total": 0.0}, lead_seconds=0.0, memory=None),
        past=PastChunk(index=0, prompt="", camera=(0, 0, 0), latents=b""),
        camera=(0, 0, 0),
        remembered=[],
    )


class Session(RuleBasedStateMachine):
    """A front and its workers, as ``Changes`` sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = Changes({})
        self.made, self.with_worker = 0, list[str]()
        self.shown: set[str] = set()
        self.accepted: set[str] = set()

    @rule()
    def accept(self) -> None:
        self.made += 1
        self.accepted.add(f"e{self.made}")
        self.changes.add(change(f"e{self.made}"))

    @rule()
    def hand_over(self) -> None:
        while taken := self.changes.take():
            assert taken.event_id not in self.with_worker, "the worker has it already"
            self.with_worker.append(taken.event_id)

    @rule(count=st.integers(0, 3))
    def show(self, count: int) -> None:
        started, self.with_worker = self.with_worker[:count], self.with_worker[count:]
        self.shown |= set(started)
        before = self.changes.in_force
        self.changes.absorb(chunk(started))
        after = self.changes.in_force
        assert after == {**{name: left - 1 for name, left in before.items() if left > 1}, **dict.fromkeys(started, 1)}

    @precondition(lambda self: self.with_worker)
    @rule()
    def refuse(self) -> None:
        refused = self.with_worker.pop(0)
        self.shown.add(refused)
        self.changes.reject(refused)

    @rule()
    def lose_worker(self) -> None:
        self.with_worker = []
        self.changes.worker_lost()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        pending = [each.event_id for each in self.changes.pending]
        assert sorted(pending) == sorted(self.accepted - self.shown)


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=50)


def test_what_was_sent_to_a_lost_worker_goes_first_to_the_next() -> None:
    changes = Changes({"old": 3})
    for name in ("a", "b"):
        changes.add(change(name))
    assert changes.take().event_id == "a"
    changes.worker_lost()
    assert [changes.take().event_id, changes.take().event_id, changes.take()] == ["a", "b", None]
    assert changes.in_force == {"old": 3}


def test_an_id_is_free_again_when_its_change_has_been_shown() -> None:
    changes = Changes({})
    changes.add(change("a"))
    with pytest.raises(PafuError) as taken:
        changes.check("a", most=5)
    assert taken.value.kind.code == "event_id_conflict"
    with pytest.raises(PafuError) as many:
        changes.check("b", most=1)
    assert many.value.kind.code == "too_many_interactions"
    changes.take()
    for sent in ("a", "b"):
        with pytest.raises(PafuError):
            changes.check(sent, most=1)
    changes.absorb(chunk(["a"]))
    changes.check("a", most=1)
