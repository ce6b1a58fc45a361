"""Response models of /v1/sessions, built by the registry and documented by OpenAPI."""

from __future__ import annotations

from typing import Literal

import msgspec
from pydantic import BaseModel

from server.live.session import LiveSession
from server.states import SessionStatus


class SessionCamera(BaseModel):
    """Camera position and speed at the newest chunk."""

    offset: int
    speed: int


class SessionCache(BaseModel):
    """Budgets in latent frames, ``host_latents`` evicted ones in host memory; ``tokens`` in the fullest layer;
    ``bytes`` on the device, on a CPU with those of host memory."""

    policy: str
    budget_latents: float
    sink_latents: float
    recent_latents: float
    position_mode: str
    kv_dtype: str
    host_latents: float
    tokens: int
    bytes: int


class Session(BaseModel):
    """A live session, without its resume token. ``hls``: path of its playlist, which needs no key."""

    id: str
    object: Literal["session"] = "session"
    created_at: int
    status: SessionStatus
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
    hls: str


class SessionList(BaseModel):
    """The caller's live sessions."""

    object: Literal["list"] = "list"
    data: list[Session]


class SessionDeleted(BaseModel):
    """The reply to a deletion."""

    id: str
    object: Literal["session.deleted"] = "session.deleted"
    deleted: Literal[True] = True


def describe(session: LiveSession, model: str, cache_bytes: int) -> Session:
    """The entry of one session; ``cache_bytes`` is the memory that it holds on the device."""
    order, newest = session.order, session.newest
    stats = newest.stats if newest is not None else None
    tokens = stats.cache_tokens if stats is not None else 0
    return Session(
        id=session.id,
        created_at=int(session.created),
        status=session.status,
        model=model,
        prompt=session.prompt,
        seed=order.seed,
        viewers=session.viewers,
        chunks=session.next_index,
        lead_seconds=stats.lead_seconds if stats is not None else 0.0,
        pending_event_ids=session.pending,
        camera=SessionCamera(**msgspec.structs.asdict(stats.camera)) if stats is not None else None,
        cache=SessionCache(**msgspec.structs.asdict(order.cache), tokens=tokens, bytes=cache_bytes),
        replay_bytes=session.replay_bytes,
        hls=session.hls,
    )
