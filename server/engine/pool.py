"""The workers of one server together: which of them takes a session, and how many they take in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from server.config.devices import Slot
from server.engine.admission import Account, Capacity, no_place, together
from server.engine.interface import WorkerStatus
from server.engine.line import Line
from server.engine.placement import least_loaded
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Open
from server.states import WorkerState


class PoolMember(Protocol):
    """A worker, near or far."""

    slot: Slot

    @property
    def lines(self) -> Mapping[str, Line]:
        """Of this server's sessions there."""

    @property
    def account(self) -> Account: ...
    @property
    def state(self) -> WorkerState: ...
    @property
    def serving(self) -> bool:
        """It takes sessions, or will again by itself."""

    @property
    def draining(self) -> bool: ...
    @property
    def capacity(self) -> Capacity: ...
    def status(self) -> WorkerStatus: ...
    def cache_bytes(self, cache: CacheChoice) -> int:
        """What a session with this cache holds of its memory."""

    async def open(self, order: Open, displaced: Sequence[str] = ()) -> Line:
        """Take a session that fits once the ``displaced`` have gone. Raises PafuError when it is refused."""

    async def move(self, session_id: str) -> None:
        """Let the session go on elsewhere, behind the chunk in hand: its events end with the code "preempted"."""

    def drain(self) -> None:
        """Take no more sessions, until ``undrain``."""

    async def leave(self) -> None:
        """The drain is through."""

    async def undrain(self) -> None:
        """Take sessions again."""


class Pool:
    """``most``: sessions on all ``members`` at once that the operator allows; None: as many as they can take."""

    def __init__(self, members: Sequence[PoolMember], most: int | None) -> None:
        self.members: list[PoolMember] = list(members)
        self.most = most

    @property
    def ready(self) -> list[PoolMember]:
        return [member for member in self.members if member.state is WorkerState.READY]

    @property
    def capacity(self) -> Capacity:
        """Of the workers that serve, or will again."""
        return together((member.capacity for member in self.members if member.serving), self.most)

    @property
    def max_sessions(self) -> int | None:
        """What they take at once, each by its own speed and memory; None before it is known."""
        if self.most is not None:
            return self.most
        known = [member.capacity.sessions for member in self.members if member.serving]
        taken = [sessions for sessions in known if sessions is not None]
        return sum(taken) if taken else None

    def place(self, order: Open) -> tuple[PoolMember, list[str]]:
        """The worker for a session, and the background sessions that must leave it first. Raises PafuError."""
        if choice := self.choose(self.ready, order.cache, order.background, one_leaves=False):
            return choice
        serving = [member for member in self.members if member.serving and member.account.room]
        raise no_place(min(m.cache_bytes(order.cache) for m in self.members), [m.account for m in serving], self.most)

    def choose(
        self, among: Iterable[PoolMember], cache: CacheChoice, background: bool, one_leaves: bool
    ) -> tuple[PoolMember, list[str]] | None:
        """As ``place``, of some of the workers; None when there is no room. ``one_leaves``: the session is here
        already, on another worker."""
        full = self.most is not None and sum(len(m.account) for m in self.members) - one_leaves >= self.most
        needed = {member: member.cache_bytes(cache) for member in among}
        fitting = [(m, m.account.load) for m in needed if not full and m.account.fits(needed[m])]
        if member := least_loaded(fitting, max(needed.values(), default=0), background):
            return member, []
        if background:
            return None
        chosen = {member: member.account.to_displace(needed[member], least=int(full)) for member in needed}
        leaving = {member: names for member, names in chosen.items() if names is not None}
        if not leaving:
            return None
        member = min(leaving, key=lambda member: len(leaving[member]))
        return member, leaving[member]

    def named(self, name: str) -> PoolMember:
        """The worker of this number, or on this device when it is the only one there. Raises PafuError not_found."""
        found = [member for member in self.members if name == member.slot.worker]
        found = found or [member for member in self.members if name == member.slot.device]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"{member.slot.worker} ({member.slot.device})" for member in self.members)
        what = f"{len(found)} workers are on {name[:64]!r}" if found else f"there is no worker {name[:64]!r}"
        raise PafuError("not_found", f"{what}; name one by its number: {known}", "worker")
