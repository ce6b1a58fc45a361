"""Tickets: short-lived secrets for browsers, which cannot set headers on a WebSocket and must not store a key.

A ticket opens one live WebSocket within a minute. Tickets are kept in memory, hashed like keys; after a restart the
page requests a new one. A ticket whose key was removed is invalid (server.access.gate).
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
    """A new ticket: its secret ``value`` and its lifetime in seconds."""

    value: str
    seconds: float


class Tickets:
    """All unused tickets, by hash."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._unused: dict[bytes, tuple[Caller, float]] = {}

    def mint(self, caller: Caller, seconds: float) -> Ticket:
        """Create a ticket for the caller. Raises PafuError ticket_limit."""
        now = self._clock()
        self._unused = {hashed: entry for hashed, entry in self._unused.items() if entry[1] > now}
        ends = [until for owner, until in self._unused.values() if owner.name == caller.name]
        if len(ends) >= MOST:
            raise PafuError(
                "ticket_limit", f"the caller has {MOST} unused tickets; use them first", retry_after=min(ends) - now
            )
        value = PREFIX + secrets.token_urlsafe(32)
        self._unused[digest(value)] = (caller, now + seconds)
        return Ticket(value, seconds)

    def redeem(self, value: str) -> Caller | None:
        """The caller of a ticket, which becomes invalid; None if it is unknown or expired."""
        caller, until = self._unused.pop(digest(value), (None, 0.0))
        return caller if until > self._clock() else None
