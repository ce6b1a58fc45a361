"""Response models for health, readiness, version and /v1/models, which OpenAPI documents."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import Literal

from pydantic import BaseModel

from cache.config import POSED, SERVED_POLICIES
from model.camera import CameraLimits
from model.spec import ModelSpec
from model.words.vocabularies import words_of
from server import __version__
from server.config import Settings
from server.engine.admission import Capacity
from server.engine.interface import EngineStatus, WorkerStatus
from server.media.formats import VIDEO_FORMATS
from server.process import rss_bytes
from server.states import EngineState


class Readiness(BaseModel):
    """``reason`` says why the server accepts no sessions; empty while it does."""

    status: str
    reason: str


class Process(BaseModel):
    """A process; ``rss_bytes`` is its resident memory."""

    pid: int | None
    rss_bytes: int


class FrontProcess(Process):
    """``tasks``: number of asyncio tasks, which should not grow as viewers come and go."""

    tasks: int


class CacheMemory(BaseModel):
    """Device memory in bytes: used by sessions' caches, and available to them in total."""

    held_bytes: int
    room_bytes: int


class SessionsThatFit(BaseModel):
    """What limits ``max_sessions``: the setting, or the smaller of ``by_speed`` and ``by_memory``.

    ``by_speed``: sessions that run in real time, at ``chunk_seconds`` per chunk; ``by_memory``: sessions that fit in
    memory; both with the default cache. Null: unknown.
    """

    limited_by: str
    by_speed: int | None
    by_memory: int | None
    chunk_seconds: float | None


class Worker(Process, Readiness):
    """One worker. ``status``: starting, ready, restarting, draining, drained, failed or stopped.

    ``silent_seconds``: time since its last message; ``restarts``: of its process.
    """

    worker: str
    device: str
    sessions: int
    max_sessions: int | None
    capacity: SessionsThatFit
    cache: CacheMemory
    silent_seconds: float
    restarts: int


class JobStore(BaseModel):
    """The job store, which live video does not need. ``reason`` says why it is unavailable."""

    status: Literal["ok", "unavailable"]
    reason: str


class Health(Readiness):
    """``max_sessions``, ``capacity`` and ``cache`` are totals over the ``workers``; ``jobs`` is the job store."""

    sessions: int
    max_sessions: int | None
    capacity: SessionsThatFit
    waiting: int
    viewers: int
    cache: CacheMemory
    jobs: JobStore
    front: FrontProcess
    workers: list[Worker]


class Alive(BaseModel):
    """``reason`` says why a failed server must be restarted."""

    status: Literal["ok", "failed"]
    reason: str


class Version(BaseModel):
    """Pafu's version, and those of Python and torch."""

    version: str
    versions: dict[str, str]


class Model(BaseModel):
    """OpenAI's model fields, and what a live client needs to know."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: Literal["pafu"] = "pafu"
    width: int
    height: int
    fps: int
    chunk_frames: int
    camera: bool
    formats: list[str]
    weights: str | None
    digest: str | None
    device: str | None
    max_prompt_chars: int
    limits: dict[str, int | float | None]
    cache_policy: str
    cache_policies: list[str]
    words: dict[str, list[str]]
    examples: list[str]


class Models(BaseModel):
    """The list of models, which has one entry."""

    object: Literal["list"] = "list"
    data: list[Model]


def liveness(engine: EngineStatus) -> Alive:
    """The reply of /healthz."""
    if engine.state is EngineState.FAILED:
        return Alive(status="failed", reason=engine.message)
    return Alive(status="ok", reason="")


def readiness(engine: EngineStatus, draining: bool) -> Readiness:
    """The reply of /readyz."""
    if draining:
        return Readiness(status="shutting_down", reason="the server is shutting down")
    if engine.state is not EngineState.READY:
        return Readiness(status=engine.state.value, reason=engine.message)
    return Readiness(status="ready", reason="")


def health(engine: EngineStatus, draining: bool, waiting: int, viewers: int, jobs: str) -> Health:
    """``waiting``: sessions in the waiting room; ``viewers``: open connections; ``jobs``: the job store's problem."""
    return Health(
        **readiness(engine, draining).model_dump(),
        sessions=engine.sessions,
        max_sessions=engine.max_sessions,
        capacity=sessions_that_fit(engine.capacity),
        waiting=waiting,
        viewers=viewers,
        cache=CacheMemory(held_bytes=engine.cache_held_bytes, room_bytes=engine.cache_room_bytes),
        jobs=JobStore(status="unavailable" if jobs else "ok", reason=jobs),
        front=FrontProcess(pid=os.getpid(), rss_bytes=rss_bytes(), tasks=len(asyncio.all_tasks())),
        workers=[worker(each) for each in engine.workers],
    )


def sessions_that_fit(capacity: Capacity) -> SessionsThatFit:
    return SessionsThatFit(
        limited_by=capacity.limited_by,
        by_speed=capacity.by_speed,
        by_memory=capacity.by_memory,
        chunk_seconds=capacity.chunk_seconds,
    )


def worker(found: WorkerStatus) -> Worker:
    return Worker(
        worker=found.worker,
        device=found.device,
        status=found.state.value,
        reason=found.message,
        sessions=found.sessions,
        max_sessions=found.capacity.sessions,
        capacity=sessions_that_fit(found.capacity),
        cache=CacheMemory(held_bytes=found.cache_held_bytes, room_bytes=found.cache_room_bytes),
        silent_seconds=found.silent_seconds,
        pid=found.pid,
        rss_bytes=found.rss_bytes,
        restarts=found.restarts,
    )


def version(engine: EngineStatus) -> Version:
    versions = {"python": platform.python_version()}
    for ready in engine.ready:
        versions |= ready.versions
    return Version(version=__version__, versions=versions)


def model(spec: ModelSpec, settings: Settings, engine: EngineStatus) -> Model:
    """The entry of /v1/models."""
    words, examples = vocabulary(spec)
    lacking = {*(POSED if spec.camera is None else ()), *(name for ready in engine.ready for name in ready.lacking)}
    return Model(
        id=spec.name,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        chunk_frames=spec.pictures_in_chunk(1),
        camera=spec.camera is not None,
        formats=list(VIDEO_FORMATS),
        weights=engine.ready[0].weights if engine.ready else None,
        digest=engine.ready[0].digest if engine.ready else None,
        device=", ".join(dict.fromkeys(ready.device for ready in engine.ready)) or None,
        max_prompt_chars=spec.max_prompt_chars,
        limits={
            "max_sessions": engine.max_sessions,
            "max_num_frames": int(settings.max_seconds * spec.fps),
            "max_streaming_buffer_seconds": settings.max_lead_seconds,
            **(camera_limits(spec.camera) if spec.camera else {}),
        },
        cache_policy=settings.cache_policy or spec.cache_policy,
        cache_policies=[policy for policy in SERVED_POLICIES if policy not in lacking],
        words=words,
        examples=examples,
    )


def camera_limits(limits: CameraLimits) -> dict[str, int]:
    """Camera speeds in whole pixels per picture: multiples of the step, up to the maximum in both directions."""
    from model.camera import MAX_RISE, MAX_SPEED, SPEED_STEP

    rise = {"max_camera_rise": MAX_RISE} if limits.rises else {}
    return {"max_camera_speed": MAX_SPEED, "camera_speed_step": SPEED_STEP, **rise}


def vocabulary(spec: ModelSpec) -> tuple[dict[str, list[str]], list[str]]:
    """Words by kind and example prompts, for suggestions; empty for models with an open vocabulary."""
    words = words_of(spec)
    if words is None:
        return {}, []
    return {kind: list(each) for kind, each in words.suggestions.items()}, list(words.examples)
