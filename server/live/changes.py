"""The changes (prompt, camera) of one session, from the viewer's message to the last chunk that they mark.

=========  ==================================================  ==========================================
state      meaning                                             leaves it
=========  ==================================================  ==========================================
WAITING    accepted; no worker has it                          ``take``, ``handed_over`` (to SENT), ``reject``
SENT       the present worker has it; no chunk has shown it    ``absorb`` (to IN_FORCE), ``reject``,
                                                               ``worker_lost`` (back to WAITING)
IN_FORCE   a chunk has shown it; active for some chunks more   ``absorb`` of the last of these chunks
=========  ==================================================  ==========================================

A worker gets each change once: only what is WAITING is sent, and it is SENT before anybody awaits the sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.errors import PafuError
from server.ipc.messages import Fragment, Interact


class Changes:
    """Each state is a map by event id, in the order of arrival."""

    def __init__(self, in_force: Mapping[str, int], waiting: Iterable[Interact] = ()) -> None:
        """``in_force``: the chunks for which each is still active."""
        self._waiting = {change.event_id: change for change in waiting}
        self._sent: dict[str, Interact] = {}
        self._in_force = dict(in_force)

    @property
    def pending(self) -> list[Interact]:
        """What no chunk has shown yet."""
        return [*self._sent.values(), *self._waiting.values()]

    @property
    def in_force(self) -> dict[str, int]:
        return dict(self._in_force)

    def check(self, event_id: str, most: int) -> None:
        """Raises PafuError when the id is taken, or ``most`` changes are pending already."""
        if event_id in self._waiting or event_id in self._sent:
            reason = f"event_id {event_id!r} still waits for its chunk; use a new id for every event"
            raise PafuError("event_id_conflict", reason, "interaction.event_id")
        if len(self._waiting) + len(self._sent) >= most:
            raise PafuError("too_many_interactions", f"{most} changes wait for the next chunk already; send fewer")

    def add(self, change: Interact) -> None:
        self._waiting[change.event_id] = change

    def take(self) -> Interact | None:
        """The next one that must be sent to the present worker; it counts as sent from now on."""
        if not self._waiting:
            return None
        event_id = next(iter(self._waiting))
        change = self._sent[event_id] = self._waiting.pop(event_id)
        return change

    def handed_over(self, changes: Iterable[Interact]) -> None:
        """The worker got these when it got the session."""
        for change in changes:
            if (known := self._waiting.pop(change.event_id, None)) is not None:
                self._sent[change.event_id] = known

    def worker_lost(self) -> None:
        """The next worker has none of them."""
        self._waiting, self._sent = {**self._sent, **self._waiting}, {}

    def reject(self, event_id: str) -> None:
        """The model refused it."""
        self._waiting.pop(event_id, None)
        self._sent.pop(event_id, None)

    def absorb(self, fragment: Fragment) -> None:
        """A chunk shows what it started, and counts for all that is in force."""
        for event_id in fragment.started:
            waiting, sent = self._waiting.pop(event_id, None), self._sent.pop(event_id, None)
            if change := sent or waiting:
                self._in_force[event_id] = change.chunks
        self._in_force = {name: left - 1 for name, left in self._in_force.items() if left > 1}
