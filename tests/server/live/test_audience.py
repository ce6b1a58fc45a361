"""Promise: watchers learn what happens to the session, not of the owner's changes; no chunk waits in vain."""

from __future__ import annotations

from model.stream.chunk_stats import ChunkStats, blank
from server.ipc.messages import Fragment, PastChunk, Rejected, ServedStats
from server.live.audience import Audience, Interrupted, TakenOver
from server.live.replay import Replay

STATS = ServedStats.of(blank(ChunkStats, cache_policy="window"), {"total": 0.0}, lead_seconds=0.0, memory=None)


def chunk(index: int, jpegs: list[bytes]) -> Fragment:
    return Fragment(
        session="s",
        index=index,
        pictures=12,
        data=b"",
        jpegs=jpegs,
        started=[],
        active=[],
        completed=[],
        stats=STATS,
        past=PastChunk(index=index, prompt="", camera=(0, 0, 0), latents=b""),
        camera=(0, 0, 0),
        remembered=[],
    )


def test_only_the_owner_hears_that_a_change_was_refused() -> None:
    audience = Audience(Replay(fps=16))
    owner, guest = audience.own("m4s", 0), audience.watch("m4s")
    refused, lost = Rejected("sess_1", "evt_1", "no such word"), Interrupted("the worker was lost")
    audience.tell(refused)
    audience.tell(lost)
    assert list(owner.notices) == [refused, lost] and list(guest.notices) == [lost]


def test_who_takes_over_is_the_owner_and_the_one_before_is_told() -> None:
    audience = Audience(Replay(fps=16))
    before, guest = audience.own("m4s", 0), audience.watch("m4s")
    after = audience.own("m4s", 0)
    assert audience.owner is after and list(before.notices) == [TakenOver()] and not guest.notices
    assert not audience.leave(before) and audience.leave(after) and audience.owner is None


def test_chunks_made_while_a_viewer_of_jpeg_is_away_have_jpegs_also_after_a_restart() -> None:
    audience = Audience(Replay(fps=16))
    assert not audience.wants_jpeg
    viewer = audience.own("jpeg", 0)
    assert audience.leave(viewer) and audience.wants_jpeg and Audience(Replay(fps=16), jpeg=True).wants_jpeg
    audience.own("m4s", 0)
    assert not audience.wants_jpeg


async def test_chunks_without_jpegs_are_passed_over_and_hold_nothing_up() -> None:
    audience = Audience(Replay(fps=16))
    for index, jpegs in enumerate([[], [], [b"picture"]]):
        audience.replay.add(chunk(index, jpegs))
    viewer = audience.own("jpeg", 0)
    viewer.opened = True
    fragment = await audience.next(viewer)
    assert isinstance(fragment, Fragment) and fragment.jpegs == [b"picture"]
    assert audience.replay.first == 2, "what cannot be shown does not wait to be played"
