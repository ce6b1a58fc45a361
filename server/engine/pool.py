"""The pool of workers: which of them takes a session, and how many fit in total."""

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
    """A worker, local or remote."""

    slot: Slot

    @property
    def lines(self) -> Mapping[str, Line]:
        """This server's sessions on the worker."""

    @property
    def account(self) -> Account: ...
    @property
    def state(self) -> WorkerState: ...
    @property
    def serving(self) -> bool:
        """Whether it accepts sessions, or will once it has started."""

    @property
    def draining(self) -> bool: ...
    @property
    def capacity(self) -> Capacity: ...
    def status(self) -> WorkerStatus: ...
    def cache_bytes(self, cache: CacheChoice) -> int:
        """Memory that a session with this cache holds on the worker."""

    def refusal(self, cache: CacheChoice) -> str | None:
        """Why the worker refuses every session with this cache; None if it does not, or this is not known yet."""

    async def open(self, order: Open, displaced: Sequence[str] = ()) -> Line:
        """Open a session that fits after closing the ``displaced`` ones. Raises PafuError if it is refused."""

    async def move(self, session_id: str) -> None:
        """Release the session for another worker after its current chunk; its events end with code "preempted"."""

    def drain(self) -> None:
        """Accept no sessions until ``undrain``."""

    async def leave(self) -> None:
        """Stop, once drained."""

    async def undrain(self) -> None:
        """Accept sessions again."""


class Pool:
    """``most``: the operator's session limit over all ``members``; None: as many as they can serve."""

    def __init__(self, members: Sequence[PoolMember], most: int | None) -> None:
        self.members: list[PoolMember] = list(members)
        self.most = most

    @property
    def ready(self) -> list[PoolMember]:
        return [member for member in self.members if member.state is WorkerState.READY]

    @property
    def capacity(self) -> Capacity:
        """Total capacity of the serving workers."""
        return together((member.capacity for member in self.members if member.serving), self.most)

    @property
    def max_sessions(self) -> int | None:
        """The session limit over all serving workers; None until it is known."""
        if self.most is not None:
            return self.most
        known = [member.capacity.sessions for member in self.members if member.serving]
        taken = [sessions for sessions in known if sessions is not None]
        return sum(taken) if taken else None

    def check(self, cache: CacheChoice) -> None:
        """Raises PafuError for a cache that no worker will ever take, as far as workers have been ready."""
        known = [member for member in self.members if member.serving and member.account.room]
        reasons = [member.refusal(cache) for member in known]
        if reasons and all(reasons):
            raise PafuError("invalid_message", str(reasons[0]), "extra_params.cache")
        if known and all(member.cache_bytes(cache) > member.account.room for member in known):
            raise self._no_place(cache)

    def _no_place(self, cache: CacheChoice) -> PafuError:
        serving = [member for member in self.members if member.serving and member.account.room]
        return no_place(min(m.cache_bytes(cache) for m in self.members), [m.account for m in serving], self.most)

    def place(self, order: Open) -> tuple[PoolMember, list[str]]:
        """The worker for a session, and the background sessions to displace there. Raises PafuError if none fits."""
        if choice := self.choose(self.ready, order.cache, order.background, one_leaves=False):
            return choice
        raise self._no_place(order.cache)

    def choose(
        self, among: Iterable[PoolMember], cache: CacheChoice, background: bool, one_leaves: bool
    ) -> tuple[PoolMember, list[str]] | None:
        """Like ``place``, but among some workers, and None if there is no room.

        ``one_leaves``: the session is already on another worker of this pool, which it leaves.
        """
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
        """The worker with this number, or the only one on this device. Raises PafuError not_found."""
        found = [member for member in self.members if name == member.slot.worker]
        found = found or [member for member in self.members if name == member.slot.device]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"{member.slot.worker} ({member.slot.device})" for member in self.members)
        what = f"{len(found)} workers are on {name[:64]!r}" if found else f"there is no worker {name[:64]!r}"
        raise PafuError("not_found", f"{what}; name one by its number: {known}", "worker")
