"""How many sessions fit: an account of cache bytes, computed from the spec and the budget before anything is allocated.

A live session may take the place of a background one (a job goes on later), never of another live one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from model.spec import ModelSpec
from server.config import ConfigError, Settings
from server.engine.placement import Load
from server.errors import RETRY_AFTER, PafuError
from server.ipc.messages import CacheChoice, Open

MIB = 2**20
NARROWEST = "bfloat16"  # that a model may compute in
WIDEST = "float32"  # what a cache is taken to hold before the worker has said
COUNTED = 16  # chunks in a row, whose median counts
COUNTED_AGAINST = 64  # before a server takes fewer sessions; three quarters of them must be slower by SLOWER
SLOWER = 1.25
SPEED_MARGIN = 0.85  # of real time; the rest is for the front, jobs, and slower chunks


def cache_bytes(spec: ModelSpec, cache: CacheChoice, dtype: str) -> int:
    """Bytes that this session will hold for its whole life: its cache, and what the video codec remembers of it."""
    return spec.codec_bytes(dtype) + cache.config.promised_bytes(
        layers=spec.num_layers,
        heads=spec.num_heads,
        head_dim=spec.head_dim,
        tokens_per_latent=spec.tokens_per_latent,
        tokens_per_chunk=spec.tokens_per_chunk,
        dtype=dtype,
    )


def in_real_time(spec: ModelSpec, chunk_seconds: float) -> int:
    """Sessions sustainable in real time at this chunk time; at least 1."""
    return max(1, int(SPEED_MARGIN * spec.pictures_in_chunk(1) / spec.fps / chunk_seconds))


def check_room(settings: Settings, workers: int) -> None:
    """Raises ConfigError when the memory that the settings give to caches holds not one session of the usual kind."""
    usual, each = CacheChoice.of(settings.cache()), settings.cache_room_bytes // workers
    least = cache_bytes(settings.spec, usual, NARROWEST)
    if settings.cache_room_bytes and each < least:
        share = f"; {workers} workers share it" if workers > 1 else ""
        reason = f"one session needs {least} bytes, so none would ever begin: give at least {least * workers}{share}"
        raise ConfigError(reason, "cache_room_bytes")


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


def together(capacities: Iterable[Capacity], setting: int | None) -> Capacity:
    """What workers can take at once, of whom each is known by its own capacity; the slowest chunk tells the time."""
    parts = list(capacities)
    speeds = [part.by_speed for part in parts if part.by_speed is not None]
    memory = [part.by_memory for part in parts if part.by_memory is not None]
    taking = [part.chunk_seconds for part in parts if part.chunk_seconds is not None]
    return Capacity(
        by_speed=sum(speeds) if speeds else None,
        by_memory=sum(memory) if memory else None,
        setting=setting,
        chunk_seconds=max(taking, default=None),
    )


class Speed:
    """What a chunk of a session of the usual kind takes on one worker: as measured at its start, then as real chunks
    take. Soon less, much later more: a start in a busy moment does not keep the server small, a short busy moment takes
    no place away, and a machine that stays slower takes fewer new sessions (those that play go on)."""

    def __init__(self, spec: ModelSpec, usual: CacheChoice | None) -> None:
        self.chunk_seconds: float | None = None  # None: not known yet
        self._spec, self._usual = spec, usual
        budget = usual.budget_latents if usual else 0.0
        self._filled_by = math.ceil(budget / spec.chunk_latents)  # the chunk that finds a full cache
        self._taken = deque[float](maxlen=COUNTED_AGAINST)

    @property
    def sessions(self) -> int | None:
        return None if self.chunk_seconds is None else in_real_time(self._spec, self.chunk_seconds)

    def measured(self, seconds: float) -> None:
        """A worker says what a chunk takes."""
        self.chunk_seconds = min(seconds, self.chunk_seconds or math.inf)

    def made(self, cache: CacheChoice, index: int, seconds: float) -> bool:
        """A chunk of a session with this cache took so long; whether another number of sessions than was known can be
        played to."""
        if cache != self._usual or index < self._filled_by or self.chunk_seconds is None:
            return False
        self._taken.append(seconds)
        before, taken = self.sessions, list(self._taken)
        if len(taken) >= COUNTED:
            self.measured(median(taken[-COUNTED:]))
        if len(taken) == COUNTED_AGAINST and quantiles(taken, n=4)[0] > SLOWER * self.chunk_seconds:
            self.chunk_seconds = median(taken)
            self._taken.clear()
        return self.sessions != before


@dataclass(frozen=True)
class Reservation:
    """What one session on the device has reserved."""

    bytes: int
    background: bool


class Account:
    """The cache memory of one worker: ``room`` bytes for at most ``most`` sessions."""

    def __init__(self, most: int, room: int = 0, held: Mapping[str, Reservation] | None = None) -> None:
        self.most = most
        self.room = room
        self._held = dict(held or {})

    def __contains__(self, session: str) -> bool:
        return session in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held(self) -> dict[str, Reservation]:
        """What each session holds, in the order in which they came."""
        return dict(self._held)

    @property
    def held_bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    @property
    def load(self) -> Load:
        background = sum(held.background for held in self._held.values())
        return Load(self.held_bytes, self.room, len(self) - background, background, self.most)

    def fits(self, needed: int) -> bool:
        """Whether there is room for one more session of so many bytes."""
        return self.held_bytes + needed <= self.room and len(self) < self.most

    def to_displace(self, needed: int, least: int = 0) -> list[str] | None:
        """Background sessions, newest first, that must go before a live one of this size fits, but at ``least`` so
        many; None when not even that helps."""
        background = [name for name, held in self._held.items() if held.background]
        chosen, count, held = list[str](), len(self), self.held_bytes
        while held + needed > self.room or count >= self.most or len(chosen) < least:
            if not background:
                return None
            chosen.append(background.pop())
            count, held = count - 1, held - self._held[chosen[-1]].bytes
        return chosen

    def hold(self, order: Open, needed: int) -> None:
        """Book a session that fits."""
        self._held[order.session] = Reservation(needed, order.background)

    def free(self, session: str) -> None:
        """The session's memory is free again; harmless when it was before."""
        self._held.pop(session, None)


def no_place(needed: int, accounts: Sequence[Account], most: int | None) -> PafuError:
    """Why a session that needs so many bytes got no place on any of these workers: cache_too_large, because it never
    will, or session_rejected, because there is none now. ``most``: sessions on all of them."""
    largest = max((account.room for account in accounts), default=0)
    if needed > largest:
        whose = "this server has" if len(accounts) == 1 else "its largest device has"
        reason = f"the session's cache needs {needed / MIB:.1f} MiB, {whose} {largest / MIB:.1f} MiB in all"
        return PafuError("cache_too_large", f"{reason}; ask for a smaller budget", "extra_params.cache.budget_latents")
    offered, taken = sum(account.most for account in accounts), sum(map(len, accounts))
    places = min(offered, most or offered)
    why = f"all {places} places are taken" if taken >= places else "the memory for streams is all in use"
    reason = f"no place is free: {why}; try again later"
    return PafuError("session_rejected", reason, retry_after=RETRY_AFTER)
