"""Promise: watchers learn what happens to the session, but nothing about the owner's changes."""

from __future__ import annotations

from server.ipc.messages import Rejected
from server.live.audience import Audience, Interrupted, TakenOver
from server.live.replay import Replay


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
