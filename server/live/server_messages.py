"""Server messages of the live protocol, which connections send and the AsyncAPI document is generated from."""

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
    """Base of all server messages; fields at their default are omitted."""


class ChosenParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accepted ``extra_params`` of session.start: the session's cache."""

    cache: CacheChoice


class MemoryShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the tokens in ``stats.memory`` map to pictures."""

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
    """The accepted values. ``memory`` is present if the session requested its kept tokens."""

    model: str
    prompt: str
    width: int
    height: int
    fps: int
    num_frames: int | None
    seed: int
    chunk_frames: int
    streaming_buffer_seconds: float
    extra_params: ChosenParams
    memory: MemoryShape | None = None


class VideoStart(ServerMessage, frozen=True, tag="video.start"):
    """The session has started or resumed. ``config`` holds the accepted values, ``mime`` the media type for a player.

    ``warnings`` are sentences about words of the prompt that will not be in the picture. ``resume_token``, sent to the
    owner only, lets session.resume continue the session on another connection. ``hls`` is the path of the session's
    HLS playlist, which needs no key.
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
    hls: str
    resume_token: str | None = None

    @classmethod
    def of(
        cls, order: Open, spec: ModelSpec, *, prompt: str, num_frames: int | None, session_mime: str, **said: Any
    ) -> VideoStart:
        """For a viewer of the session that ``order`` opened; ``said`` holds the remaining fields."""
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
            extra_params=ChosenParams(cache=order.cache),
            memory=MemoryShape.of(spec) if order.memory else None,
        )
        mime = mime_of(said["format"], session_mime)
        return cls(session_id=order.session, mime=mime, config=config, **said)


class ChunkMetadata(ServerMessage, frozen=True, tag="video.chunk_metadata"):
    """Describes a chunk; the next message is binary and holds its ``byte_length`` bytes."""

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
    frame_sizes: list[int] | None = None  # for h264 and jpeg: bytes of each picture, in order

    @classmethod
    def of(cls, fragment: Fragment, size: int, frame_sizes: list[int] | None, request_id: str) -> ChunkMetadata:
        """For a chunk sent as ``size`` bytes."""
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
    """The change waits for its chunk. The model ignores ``unknown_words``; ``warnings`` say what else will not be in
    the picture."""

    event_id: str
    unknown_words: list[str]
    warnings: list[str]


class InteractionApplied(ServerMessage, frozen=True, tag="session.interaction.applied"):
    """The change is visible from the chunk with this index on, which follows."""

    event_id: str
    chunk_index: int


class InteractionRejected(ServerMessage, frozen=True, tag="session.interaction.rejected"):
    """The change was refused and the stream continues unchanged. If it is running, an error with the same id
    follows."""

    event_id: str
    code: str
    message: str
    param: str | None

    @classmethod
    def of(cls, event_id: str, error: PafuError) -> InteractionRejected:
        return cls(event_id=event_id, code=error.kind.code, message=error.message, param=error.param)


class SessionQueued(ServerMessage, frozen=True, tag="session.queued"):
    """The session waits because no place is free; ``position`` 1 is next.

    ``seconds`` is an estimate from recent waits or stays, omitted if there were none.
    """

    position: int
    queue_depth: int
    seconds: float | None = None


class SessionInterrupted(ServerMessage, frozen=True, tag="session.interrupted"):
    """The worker was lost. After a gap, the stream continues on another one without a missing picture."""

    session_id: str
    reason: str


class SessionPaused(ServerMessage, frozen=True, tag="session.paused"):
    """Generation stops until session.resume; chunks before ``next_chunk_index`` may still arrive."""

    session_id: str
    next_chunk_index: int


class SessionResumed(ServerMessage, frozen=True, tag="session.resumed"):
    """The session continues after a pause."""

    session_id: str
    next_chunk_index: int


class SessionPong(ServerMessage, frozen=True, tag="session.pong"):
    """The answer to session.ping."""


class SessionDone(ServerMessage, frozen=True, tag="session.done"):
    """The session ended normally. The connection closes with 1000, at a server shutdown with 1012."""

    session_id: str
    chunks: int
    stopped: bool
    reason: str
    resumable: bool  # after a shutdown: session.resume works on another server
    request_id: str


class Error(ServerMessage, frozen=True, tag="error"):
    """An error. Before video.start it ends the connection; later the connection stays open unless the socket closes."""

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
    """The message as JSON text."""
    try:
        return msgspec.json.encode(message).decode()
    except UnicodeEncodeError:  # it quotes a client's lone surrogate, which JSON can escape but UTF-8 cannot encode
        return json.dumps(msgspec.to_builtins(message))


def mime_of(format: str, session_mime: str) -> str:
    """The media type for the viewer: a container with its codec, or the bare codec string for WebCodecs."""
    codec = session_mime.partition('codecs="')[2].rstrip('"')
    return {"m4s": session_mime, "h264": f"video/h264; codecs={codec}", "jpeg": "image/jpeg"}[format]
