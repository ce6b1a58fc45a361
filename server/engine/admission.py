"""Admission control: cache bytes per session are computed from spec and budget before anything is allocated.

A live session may displace a background session (a job, which continues later), but never another live session.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from cache.config import check_kv_dtype, check_shared
from cache.errors import PolicyError
from model.spec import ModelSpec
from server.config import ConfigError, Settings
from server.config.devices import Slot
from server.engine.placement import Load
from server.errors import RETRY_AFTER, PafuError
from server.ipc.messages import CacheChoice, Open, Ready

MIB = 2**20
NARROWEST = "bfloat16"  # the smallest dtype a model may compute in
WIDEST = "float32"  # the assumed cache dtype until the worker reports its own
COUNTED = 16  # consecutive chunks whose median lowers the chunk time
COUNTED_AGAINST = 64  # consecutive chunks after which it may rise, if 3/4 took SLOWER times as long
SLOWER = 1.25
SPEED_MARGIN = 0.85  # usable share of real time; the rest covers the front, jobs and slower chunks


def cache_bytes(
    spec: ModelSpec, cache: CacheChoice, dtype: str, devices: Sequence[str] = ("",), codec: int | None = None
) -> int:
    """Bytes of a device that a session holds for its whole life: its cache and the video codec's state (``codec``: as
    the worker reports it). In a group of ``devices``, of the first, which holds most: its heads' share of the cache,
    and the codec's state. A CPU is also the host whose memory holds evicted tokens."""
    heads = spec.num_heads // len(devices)
    sizes: dict[str, Any] = {"layers": spec.num_layers, "heads": heads, "head_dim": spec.head_dim, "dtype": dtype}
    sizes["tokens_per_latent"] = spec.tokens_per_latent
    host = cache.config.host_bytes(**sizes) if devices[0] == "cpu" else 0
    held = cache.config.promised_bytes(**sizes, tokens_per_chunk=spec.tokens_per_chunk)
    return (spec.codec_bytes(dtype) if codec is None else codec) + held + host


def refusal(spec: ModelSpec, cache: CacheChoice, ready: Ready, devices: Sequence[str]) -> str | None:
    """Why this worker refuses every session with such a cache, or None."""
    try:
        check_kv_dtype(cache.kv_dtype, ready.dtype)
        check_shared(cache.kv_dtype, spec.dim // len(devices), len(devices))
    except PolicyError as error:
        return str(error)
    return ready.lacking.get(cache.policy)


def in_real_time(spec: ModelSpec, chunk_seconds: float) -> int:
    """Sessions sustainable in real time at this chunk time; at least 1."""
    return max(1, int(SPEED_MARGIN * spec.pictures_in_chunk(1) / spec.fps / chunk_seconds))


def check_room(settings: Settings, slots: Sequence[Slot]) -> None:
    """Raises ConfigError if ``cache_room_bytes`` is too small for even one session with the default cache."""
    workers, largest = len(slots), max((slot.devices for slot in slots), key=len)
    usual, each = CacheChoice.of(settings.cache()), settings.cache_room_bytes // workers
    least = cache_bytes(settings.spec, usual, NARROWEST, largest)
    if settings.cache_room_bytes and each < least:
        share = f"; {workers} workers share it" if workers > 1 else ""
        reason = f"one session needs {least} bytes, so none could ever start: set at least {least * workers}{share}"
        raise ConfigError(reason, "cache_room_bytes")


@dataclass(frozen=True)
class Capacity:
    """The session limit and its cause.

    ``by_speed`` and ``by_memory`` count sessions with the default cache, None if unknown; ``setting`` overrides them.
    ``chunk_seconds`` is the time of one chunk.
    """

    by_speed: int | None = None
    by_memory: int | None = None
    setting: int | None = None
    chunk_seconds: float | None = None

    @property
    def sessions(self) -> int | None:
        """The limit; None until it is known."""
        if self.setting is not None:
            return self.setting
        known = [max(1, limit) for limit in (self.by_speed, self.by_memory) if limit is not None]
        return min(known) if self.by_speed is not None else None

    @property
    def limited_by(self) -> str:
        """What sets the limit: "setting", "speed" or "memory"."""
        if self.setting is not None:
            return "setting"
        return "speed" if self.sessions == self.by_speed else "memory"


def together(capacities: Iterable[Capacity], setting: int | None) -> Capacity:
    """The total capacity of several workers; ``chunk_seconds`` is that of the slowest."""
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
    """The chunk time of one worker with the default cache: measured at startup, then adjusted to real chunks.

    Faster chunks lower it soon, slower chunks raise it only after a long time (hysteresis). So a busy moment at startup
    does not limit the server for long, a short busy moment later removes no places, and a machine that stays slower
    accepts fewer new sessions; running sessions continue.
    """

    def __init__(self, spec: ModelSpec, usual: CacheChoice | None) -> None:
        self.chunk_seconds: float | None = None  # None: unknown
        self._spec, self._usual = spec, usual
        budget = usual.budget_latents if usual else 0.0
        self._filled_by = math.ceil(budget / spec.chunk_latents)  # first chunk with a full cache
        self._taken = deque[float](maxlen=COUNTED_AGAINST)

    @property
    def sessions(self) -> int | None:
        return None if self.chunk_seconds is None else in_real_time(self._spec, self.chunk_seconds)

    def measured(self, seconds: float) -> None:
        """Record a chunk time that the worker measured."""
        self.chunk_seconds = min(seconds, self.chunk_seconds or math.inf)

    def made(self, cache: CacheChoice, index: int, seconds: float) -> bool:
        """Record the time of a real chunk; whether the session limit changed."""
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
    """Memory reserved for one session on the device."""

    bytes: int
    background: bool


class Account:
    """The cache memory of one worker: ``room`` bytes, at most ``most`` sessions."""

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
        """Reservations by session, oldest first."""
        return dict(self._held)

    @property
    def held_bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    @property
    def load(self) -> Load:
        background = sum(held.background for held in self._held.values())
        return Load(self.held_bytes, self.room, len(self) - background, background, self.most)

    def fits(self, needed: int) -> bool:
        """Whether one more session of ``needed`` bytes fits."""
        return self.held_bytes + needed <= self.room and len(self) < self.most

    def to_displace(self, needed: int, least: int = 0) -> list[str] | None:
        """Background sessions, newest first, to displace so that a live one of ``needed`` bytes fits.

        At least ``least`` of them; None if even displacing all is not enough.
        """
        background = [name for name, held in self._held.items() if held.background]
        chosen, count, held = list[str](), len(self), self.held_bytes
        while held + needed > self.room or count >= self.most or len(chosen) < least:
            if not background:
                return None
            chosen.append(background.pop())
            count, held = count - 1, held - self._held[chosen[-1]].bytes
        return chosen

    def hold(self, order: Open, needed: int) -> None:
        """Reserve memory for a session that fits."""
        self._held[order.session] = Reservation(needed, order.background)

    def free(self, session: str) -> None:
        """Release the session's memory, if it holds any."""
        self._held.pop(session, None)


def no_place(needed: int, accounts: Sequence[Account], most: int | None) -> PafuError:
    """The error for a session of ``needed`` bytes that fits on none of the workers.

    cache_too_large if it can never fit, session_rejected if no place is free now. ``most``: the limit over all workers.
    """
    largest = max((account.room for account in accounts), default=0)
    if needed > largest:
        whose = "this server has" if len(accounts) == 1 else "its largest device has"
        reason = f"the session's cache needs {needed / MIB:.1f} MiB, {whose} {largest / MIB:.1f} MiB in total"
        return PafuError("cache_too_large", f"{reason}; request a smaller budget", "extra_params.cache.budget_latents")
    offered, taken = sum(account.most for account in accounts), sum(map(len, accounts))
    places = min(offered, most or offered)
    why = f"all {places} places are taken" if taken >= places else "all cache memory is in use"
    reason = f"no place is free: {why}; try again later"
    return PafuError("session_rejected", reason, retry_after=RETRY_AFTER)
