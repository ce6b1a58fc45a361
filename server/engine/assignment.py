"""The configuration of one worker: its slot, model, limits and timeouts. Plain data, so that it can be sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from model.spec import ModelSpec, spec_named
from server.config import Settings
from server.config.devices import Slot
from server.engine.placement import share_of
from server.ipc.messages import CacheChoice, Configure, Parts

BEAT_SECONDS = 0.5


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``name``: the worker's name in the log; ``most``: the operator's session limit; timeouts in seconds."""

    name: str
    slot: Slot
    configure: Configure
    command: tuple[str, ...]
    most: int | None
    load_within: float
    silent_within: float

    @property
    def spec(self) -> ModelSpec:
        spec, size = spec_named(self.configure.model), self.configure.parts.size
        return spec if size is None else spec.at(*size)


def assign(settings: Settings, slot: Slot, workers: int, command: Sequence[str]) -> Assignment:
    """The assignment of one of ``workers`` workers that share the server's limits."""
    return Assignment(
        name=f"worker {slot.worker} ({slot.device})" if workers > 1 else "the worker",
        slot=slot,
        configure=configure(settings, slot, workers, CacheChoice.of(settings.cache())),
        command=tuple(command),
        most=None if settings.max_sessions is None else share_of(settings.max_sessions, workers),
        load_within=settings.load_timeout,
        silent_within=settings.worker_timeout,
    )


def configure(settings: Settings, slot: Slot, workers: int, usual: CacheChoice) -> Configure:
    """The first message to the worker; a configured ``cache_room_bytes`` is divided among all workers."""
    room = settings.cache_room_bytes
    return Configure(
        model=settings.model,
        weights=settings.weights_place,
        device=slot.device,
        threads=slot.threads,
        cache_room_bytes=room and max(1, room // workers),
        memory_share=slot.memory_share,
        beat_seconds=BEAT_SECONDS,
        log_level=settings.log_level,
        log_format=settings.log_format,
        salience_head=str(Path(settings.salience_head).resolve()) if settings.salience_head else None,
        parts=Parts.of(settings),
        usual=usual,
        called=settings.names,
        patience=settings.worker_timeout,
    )
