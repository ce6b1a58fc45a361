"""The HTTP contract as OpenAPI: what each route answers with, what every error looks like, which routes need a key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import __version__
from server.http.replies import ErrorReply

# Every route: no reply with such a status has another shape.
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request cannot be served as it is; `code` says why."},
    "5XX": {"model": ErrorReply, "description": "The server cannot serve it now; 503 may work later."},
}
DESCRIPTION = (
    "Real-time streaming video. Live video goes over the WebSocket /v1/realtime/video, which /asyncapi.json describes. "
    "Errors are `{error: {message, type, code, param}}`; with 429 and some 503 comes a Retry-After."
)


class Readiness(BaseModel):
    """``reason`` says why the server does not take sessions."""

    status: str
    reason: str


class Process(BaseModel):
    pid: int | None
    rss_bytes: int


class FrontProcess(Process):
    """``tasks``: what the event loop has in hand; where viewers come and go it does not grow."""

    tasks: int


class WorkerProcess(Process):
    restarts: int


class CacheMemory(BaseModel):
    """Bytes of the worker's memory that sessions' caches hold, and may hold."""

    held_bytes: int
    room_bytes: int


class SessionsThatFit(BaseModel):
    """Why ``max_sessions`` is what it is: the setting, or else the smaller of how many sessions of the usual kind are
    played to in real time (a chunk of one takes ``chunk_seconds``) and have room in memory. Null: not known yet."""

    limited_by: str
    by_speed: int | None
    by_memory: int | None
    chunk_seconds: float | None


class Health(Readiness):
    sessions: int
    max_sessions: int | None
    capacity: SessionsThatFit
    waiting: int
    viewers: int
    cache: CacheMemory
    front: FrontProcess
    worker: WorkerProcess


class SessionCamera(BaseModel):
    offset: int
    speed: int


class SessionCache(BaseModel):
    """Budgets in latent frames; ``tokens`` of the fullest layer, ``bytes`` held on the device."""

    policy: str
    budget_latents: float
    sink_latents: float
    recent_latents: float
    tokens: int
    bytes: int


class Session(BaseModel):
    """A live session; ``status``: waiting, streaming, paused, suspended, parked, ended."""

    id: str
    object: str
    created_at: int
    status: str
    model: str
    prompt: str
    seed: int
    viewers: int
    chunks: int
    lead_seconds: float
    pending_event_ids: list[str]
    camera: SessionCamera | None
    cache: SessionCache
    replay_bytes: int


class SessionList(BaseModel):
    object: str
    data: list[Session]


class SessionDeleted(BaseModel):
    id: str
    object: str
    deleted: bool


class Alive(BaseModel):
    """``reason`` says why a server that will never serve again has to be restarted."""

    status: str
    reason: str


class Version(BaseModel):
    version: str
    versions: dict[str, str]


class Model(BaseModel):
    """OpenAI's fields, and what a client of a live stream has to know."""

    id: str
    object: str
    created: int
    owned_by: str
    width: int
    height: int
    fps: int
    chunk_frames: int
    camera: bool
    formats: list[str]
    weights: str | None
    device: str | None
    max_prompt_chars: int
    limits: dict[str, float]
    words: dict[str, list[str]]
    examples: list[str]


class Models(BaseModel):
    object: str
    data: list[Model]


def answers(model: type[BaseModel], unready: bool = False) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route; ``unready``: it answers 503 in the same shape while sessions are not taken."""
    found: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    return {**found, 503: {"model": model, "description": "No sessions are taken now."}} if unready else found


def describe(app: FastAPI, public: Collection[str]) -> None:
    """Let the app's OpenAPI name the key, and the ``public`` paths that need none to be read."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_keys(
                get_openapi(title="Pafu", version=__version__, description=DESCRIPTION, routes=app.routes), public
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_keys(document: dict[str, Any], public: Collection[str]) -> dict[str, Any]:
    bearer = {"type": "http", "scheme": "bearer", "description": "A key of `pafu keys add`, where the server has keys."}
    document.setdefault("components", {})["securitySchemes"] = {"key": bearer}
    document["security"] = [{"key": []}]
    for path, methods in document["paths"].items():
        if path in public and "get" in methods:
            methods["get"]["security"] = []
    return document
