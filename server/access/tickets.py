"""Tickets: what a browser shows instead of a key, because it cannot set headers on a WebSocket and must keep no key.

A ticket opens one live socket, once, within a minute. They live in this process's memory, hashed like keys; a server
that restarts has forgotten them, and the page asks for another. One whose key was removed meanwhile opens nothing
(server.access.gate).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.access.keys import digest
from server.access.limits import Caller
from server.errors import PafuError

PREFIX = "ek_"
MOST = 64  # unused tickets of one caller


@dataclass(frozen=True)
class Ticket:
    """``value`` is shown once; ``seconds`` is how long it may be used."""

    value: str
    seconds: float


class Tickets:
    """All unused tickets, by hash."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unused: dict[bytes, tuple[Caller, float]] = {}

    def mint(self, caller: Caller, seconds: float) -> Ticket:
        """A new ticket that stands for the caller. Raises PafuError ticket_limit."""
        now = self._clock()
        self._unused = {hashed: entry for hashed, entry in self._unused.items() if entry[1] > now}
        ends = [until for owner, until in self._unused.values() if owner.name == caller.name]
        if len(ends) >= MOST:
            raise PafuError(
                "ticket_limit", f"{MOST} tickets wait to be used; use them first", retry_after=min(ends) - now
            )
        value = PREFIX + secrets.token_urlsafe(32)
        self._unused[digest(value)] = (caller, now + seconds)
        return Ticket(value, seconds)

    def redeem(self, value: str) -> Caller | None:
        """Whom the ticket stands for; it is used up by asking."""
        caller, until = self._unused.pop(digest(value), (None, 0.0))
        return caller if until > self._clock() else None
