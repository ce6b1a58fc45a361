"""The changes (prompt, camera) of one session, from the viewer's message to the last chunk for which they are active.

=========  ==================================================  ==========================================
state      meaning                                             left through
=========  ==================================================  ==========================================
WAITING    accepted, not sent to a worker                      ``take``, ``handed_over`` (to SENT), ``reject``
SENT       sent to the current worker, not in a chunk yet      ``absorb`` (to IN_FORCE), ``reject``,
                                                               ``worker_lost`` (back to WAITING)
IN_FORCE   in a chunk, and active for some more chunks         ``absorb`` of the last of these chunks
=========  ==================================================  ==========================================

A worker gets each change once: only WAITING changes are sent, and each is marked SENT before the send is awaited.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.errors import PafuError
from server.ipc.messages import Fragment, Interact


class Changes:
    """One dict per state: event id -> change, in order of arrival."""

    def __init__(self, in_force: Mapping[str, int], waiting: Iterable[Interact] = ()) -> None:
        """``in_force``: event id -> number of chunks for which it is still active."""
        self._waiting = {change.event_id: change for change in waiting}
        self._sent: dict[str, Interact] = {}
        self._in_force = dict(in_force)

    @property
    def pending(self) -> list[Interact]:
        """Changes that are not in a chunk yet."""
        return [*self._sent.values(), *self._waiting.values()]

    @property
    def in_force(self) -> dict[str, int]:
        return dict(self._in_force)

    def check(self, event_id: str, most: int) -> None:
        """Raises PafuError if the id is in use or ``most`` changes are already pending."""
        if event_id in self._waiting or event_id in self._sent:
            reason = f"event_id {event_id!r} is still pending; use a new id for every event"
            raise PafuError("event_id_conflict", reason, "interaction.event_id")
        if len(self._waiting) + len(self._sent) >= most:
            raise PafuError("too_many_interactions", f"{most} changes already wait for the next chunk; send fewer")

    def add(self, change: Interact) -> None:
        self._waiting[change.event_id] = change

    def take(self) -> Interact | None:
        """Take the next WAITING change and mark it SENT; None if there is none."""
        if not self._waiting:
            return None
        event_id = next(iter(self._waiting))
        change = self._sent[event_id] = self._waiting.pop(event_id)
        return change

    def handed_over(self, changes: Iterable[Interact]) -> None:
        """Mark changes SENT that the worker received with the open request."""
        for change in changes:
            if (known := self._waiting.pop(change.event_id, None)) is not None:
                self._sent[change.event_id] = known

    def worker_lost(self) -> None:
        """Move all SENT changes back to WAITING."""
        self._waiting, self._sent = {**self._sent, **self._waiting}, {}

    def reject(self, event_id: str) -> None:
        """Drop a change that the model refused."""
        self._waiting.pop(event_id, None)
        self._sent.pop(event_id, None)

    def absorb(self, fragment: Fragment) -> None:
        """Apply a chunk: the changes it started come into force, and those in force have one chunk less left."""
        for event_id in fragment.started:
            waiting, sent = self._waiting.pop(event_id, None), self._sent.pop(event_id, None)
            if change := sent or waiting:
                self._in_force[event_id] = change.chunks
        self._in_force = {name: left - 1 for name, left in self._in_force.items() if left > 1}
