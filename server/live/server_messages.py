"""What the server says on the live socket: the structs that a connection sends and that the AsyncAPI document is made
of (server.http.asyncapi).
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from model.spec import ModelSpec
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Fragment, Open, ServedStats


class ServerMessage(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True
):
    """Base of all; a field with a default is left out where it has it."""


class ExtraParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cache: CacheChoice


class MemoryShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How chunks' ``stats.memory`` relates to pictures."""

    pictures_per_latent: int
    first_latent_pictures: int
    tokens_per_latent: int

    @classmethod
    def of(cls, spec: ModelSpec) -> MemoryShape:
        return cls(
            pictures_per_latent=spec.temporal_stride,
            first_latent_pictures=spec.first_latent_pictures,
            tokens_per_latent=spec.tokens_per_latent,
        )


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The accepted values; ``memory`` for a session that asked for its kept tokens."""

    model: str
    prompt: str
    width: int
    height: int
    fps: int
    num_frames: int | None
    seed: int
    chunk_frames: int
    streaming_buffer_seconds: float
    extra_params: ExtraParams
    memory: MemoryShape | None = None


class VideoStart(ServerMessage, frozen=True, tag="video.start"):
    """The session has begun or goes on; ``config`` holds the accepted values, ``mime`` is for a player. ``warnings``
    are sentences about words of the prompt that will not be in the picture.

    ``resume_token`` is for the owner alone: with it session.resume takes the session up over another connection.
    """

    request_id: str
    session_id: str
    format: str
    mime: str
    config: SessionConfig
    unknown_words: list[str]
    warnings: list[str]
    resumed: bool
    next_chunk_index: int
    resume_token: str | None = None

    @classmethod
    def of(
        cls, order: Open, spec: ModelSpec, *, prompt: str, num_frames: int | None, session_mime: str, **said: Any
    ) -> VideoStart:
        """For a viewer of the session that ``order`` began; ``said`` are the remaining fields."""
        config = SessionConfig(
            model=spec.name,
            prompt=prompt,
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            num_frames=num_frames,
            seed=order.seed,
            chunk_frames=spec.pictures_in_chunk(1),
            streaming_buffer_seconds=order.lead_seconds,
            extra_params=ExtraParams(cache=order.cache),
            memory=MemoryShape.of(spec) if order.memory else None,
        )
        mime = mime_of(said["format"], session_mime)
        return cls(session_id=order.session, mime=mime, config=config, **said)


class ChunkMetadata(ServerMessage, frozen=True, tag="video.chunk_metadata"):
    """The very next message is binary and holds this chunk's ``byte_length`` bytes."""

    kind: Literal["media", "trailer"]
    transport_chunk_index: int
    generation_chunk_index: int
    num_frames: int
    byte_length: int
    request_id: str
    started_event_ids: list[str]
    active_event_ids: list[str]
    completed_event_ids: list[str]
    stats: ServedStats
    frame_sizes: list[int] | None = None  # h264, jpeg: bytes of each picture's part, in order

    @classmethod
    def of(cls, fragment: Fragment, size: int, frame_sizes: list[int] | None, request_id: str) -> ChunkMetadata:
        """For a chunk that is sent as ``size`` bytes."""
        return cls(
            kind="media",
            transport_chunk_index=fragment.index,
            generation_chunk_index=fragment.index,
            num_frames=fragment.pictures,
            byte_length=size,
            request_id=request_id,
            started_event_ids=fragment.started,
            active_event_ids=fragment.active,
            completed_event_ids=fragment.completed,
            stats=fragment.stats,
            frame_sizes=frame_sizes,
        )


class InteractionQueued(ServerMessage, frozen=True, tag="session.interaction.queued"):
    """The change waits for the next chunk; ``unknown_words`` of its prompt are left out by the model, and ``warnings``
    say what else will not be in the picture."""

    event_id: str
    unknown_words: list[str]
    warnings: list[str]


class InteractionApplied(ServerMessage, frozen=True, tag="session.interaction.applied"):
    """The change shows in the chunk with this index, which comes next."""

    event_id: str
    chunk_index: int


class InteractionRejected(ServerMessage, frozen=True, tag="session.interaction.rejected"):
    """The change will not be shown; the stream goes on as it was. An error with the same id follows while it does."""

    event_id: str
    code: str
    message: str
    param: str | None

    @classmethod
    def of(cls, event_id: str, error: PafuError) -> InteractionRejected:
        return cls(event_id=event_id, code=error.kind.code, message=error.message, param=error.param)


class SessionQueued(ServerMessage, frozen=True, tag="session.queued"):
    """No place is free: the session waits, ``position`` 1 is next.

    ``seconds`` is how long that took others of late; left out while nobody has waited yet.
    """

    position: int
    queue_depth: int
    seconds: float | None = None


class SessionInterrupted(ServerMessage, frozen=True, tag="session.interrupted"):
    """The worker was lost; the stream goes on in another after a gap, without a missing picture."""

    session_id: str
    reason: str


class SessionPaused(ServerMessage, frozen=True, tag="session.paused"):
    """Nothing more is made until session.resume; chunks up to ``next_chunk_index`` may still come."""

    session_id: str
    next_chunk_index: int


class SessionResumed(ServerMessage, frozen=True, tag="session.resumed"):
    """The session goes on after a pause."""

    session_id: str
    next_chunk_index: int


class SessionPong(ServerMessage, frozen=True, tag="session.pong"):
    """The answer to session.ping."""


class SessionDone(ServerMessage, frozen=True, tag="session.done"):
    """The session ended in order; the connection closes with 1000, or with 1012 at a shutdown."""

    session_id: str
    chunks: int
    stopped: bool
    reason: str
    resumable: bool  # after a shutdown: session.resume works at the next server
    request_id: str


class Error(ServerMessage, frozen=True, tag="error"):
    """Before video.start it ends the connection; later it does so only when the socket then closes."""

    code: str
    message: str
    param: str | None
    retryable: bool
    retry_after_seconds: float | None = None
    event_id: str | None = None

    @classmethod
    def of(cls, error: PafuError, event_id: str | None = None) -> Error:
        return cls(
            code=error.kind.code,
            message=error.message,
            param=error.param,
            retryable=error.kind.retryable,
            retry_after_seconds=error.retry_after,
            event_id=event_id,
        )


SERVER_MESSAGES: dict[str, type[ServerMessage]] = {
    str(kind.__struct_config__.tag): kind for kind in ServerMessage.__subclasses__()
}


def encode(message: ServerMessage) -> str:
    """JSON text."""
    try:
        return msgspec.json.encode(message).decode()
    except UnicodeEncodeError:  # it quotes half a surrogate pair from a client: JSON can escape that, UTF-8 cannot
        return json.dumps(msgspec.to_builtins(message))


def mime_of(format: str, session_mime: str) -> str:
    """The type of what the viewer gets: a container with its codec, or the bare codec string for WebCodecs."""
    codec = session_mime.partition('codecs="')[2].rstrip('"')
    return {"m4s": session_mime, "h264": f"video/h264; codecs={codec}", "jpeg": "image/jpeg"}[format]
