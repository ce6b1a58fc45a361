"""How many sessions fit: an account of cache bytes, computed from the spec and the budget before anything is allocated.

A live session may take the place of a background one (a job goes on later), never of another live one.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.spec import ModelSpec
from server.errors import RETRY_AFTER, PafuError
from server.ipc.messages import CacheChoice, Open

MIB = 2**20
SPEED_MARGIN = 0.85  # of the time: what is left over goes to the front, to jobs, and to chunks that take longer


def cache_bytes(spec: ModelSpec, cache: CacheChoice, dtype: str) -> int:
    """Bytes that this session's cache will allocate, for its whole life."""
    return cache.config.promised_bytes(
        layers=spec.num_layers,
        heads=spec.num_heads,
        head_dim=spec.head_dim,
        tokens_per_latent=spec.tokens_per_latent,
        tokens_per_chunk=spec.tokens_per_chunk,
        dtype=dtype,
    )


def in_real_time(spec: ModelSpec, chunk_seconds: float) -> int:
    """Sessions that can be played to at once, when a chunk of each takes so long; never none."""
    return max(1, int(SPEED_MARGIN * spec.pictures_in_chunk(1) / spec.fps / chunk_seconds))


@dataclass(frozen=True)
class Capacity:
    """Most sessions at once, and why: ``by_speed`` and ``by_memory`` of usual ones, where that is known; a ``setting``
    overrides the first. ``chunk_seconds``: what one chunk of one takes."""

    by_speed: int | None = None
    by_memory: int | None = None
    setting: int | None = None
    chunk_seconds: float | None = None

    @property
    def sessions(self) -> int | None:
        """None before it is known."""
        if self.setting is not None:
            return self.setting
        known = [max(1, limit) for limit in (self.by_speed, self.by_memory) if limit is not None]
        return min(known) if self.by_speed is not None else None

    @property
    def limited_by(self) -> str:
        """setting, speed or memory."""
        if self.setting is not None:
            return "setting"
        return "speed" if self.sessions == self.by_speed else "memory"


@dataclass(frozen=True)
class Held:
    """What one session on the device holds."""

    bytes: int
    background: bool


class Account:
    """The cache memory of one worker: ``room`` bytes for at most ``most`` sessions."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.room = 0
        self._held: dict[str, Held] = {}

    @property
    def held_bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    def sessions_that_fit(self, needed: int) -> int:
        """How many more sessions of this size there is room for."""
        by_bytes = (self.room - self.held_bytes) // needed
        return max(0, min(by_bytes, self.most - len(self._held)))

    def to_displace(self, needed: int) -> list[str]:
        """Background sessions, newest first, that must go before a live one of this size fits."""
        chosen, count, held = [], len(self._held), self.held_bytes
        for name in reversed([name for name, place in self._held.items() if place.background]):
            if held + needed <= self.room and count < self.most:
                break
            chosen.append(name)
            count, held = count - 1, held - self._held[name].bytes
        return chosen

    def hold(self, order: Open, needed: int) -> None:
        """Book a session. Raises PafuError cache_too_large (it can never fit) or session_rejected (not now)."""
        if needed > self.room:
            reason = (
                f"the session's cache needs {needed / MIB:.1f} MiB, this server has {self.room / MIB:.1f} MiB in all"
            )
            raise PafuError(
                "cache_too_large", f"{reason}; ask for a smaller budget", "extra_params.cache.budget_latents"
            )
        if not self.sessions_that_fit(needed):
            taken = (
                f"{len(self._held)} of {self.most} sessions, {self.held_bytes / MIB:.1f} of {self.room / MIB:.1f} MiB"
            )
            reason = f"no place is free ({taken} of cache are taken); try again later"
            raise PafuError("session_rejected", reason, retry_after=RETRY_AFTER)
        self._held[order.session] = Held(needed, order.background)

    def free(self, session: str) -> None:
        """The session's memory is free again; harmless when it was before."""
        self._held.pop(session, None)
