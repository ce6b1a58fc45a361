"""What the server says on the live socket, as models: the AsyncAPI document is made of them (server.http.asyncapi).

The session builds plain dictionaries, as it sends one with every chunk; the tests hold each message that any of them
receives against these models, so a field that is missing here or there is found.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Said(BaseModel):
    """No field that is not written here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VideoStart(Said):
    """The session has begun or goes on; ``config`` holds the accepted values, ``mime`` is for a player.

    ``resume_token`` is for the owner alone: with it session.resume takes the session up over another connection.
    """

    type: Literal["video.start"]
    request_id: str
    session_id: str
    format: str
    mime: str
    config: dict[str, Any]
    unknown_words: list[str]
    resumed: bool
    next_chunk_index: int
    resume_token: str | None = None


class CameraState(Said):
    """``offset``: world column of the picture's left edge; ``speed``: pixels per picture, + is right."""

    offset: int
    speed: int


class Memory(Said):
    """The kept tokens, for a session that asked: bytes as base64, rows x columns of them for each of ``latents``."""

    rows: int
    columns: int
    latents: list[int]
    kept: str
    salience: str


class ChunkStats(Said):
    """``seconds`` by stage, and ``chunk_seconds`` in all; the cache after this chunk."""

    chunk_seconds: float
    seconds: dict[str, float]
    cache_tokens: int
    cache_bytes: int
    evicted_tokens: int
    cache_policy: str
    cache_fell_back: bool
    lead_seconds: float
    prompt: str
    camera: CameraState
    memory: Memory | None = None


class ChunkMetadata(Said):
    """The very next message is binary and holds this chunk's ``byte_length`` bytes."""

    type: Literal["video.chunk_metadata"]
    kind: Literal["media", "trailer"]
    transport_chunk_index: int
    generation_chunk_index: int
    num_frames: int
    byte_length: int
    started_event_ids: list[str]
    active_event_ids: list[str]
    completed_event_ids: list[str]
    stats: ChunkStats
    frame_sizes: list[int] | None = None  # h264, jpeg: bytes of each picture's part, in order


class InteractionQueued(Said):
    """The change waits for the next chunk; ``unknown_words`` of its prompt are left out by the model."""

    type: Literal["session.interaction.queued"]
    event_id: str
    unknown_words: list[str]


class InteractionApplied(Said):
    """The change shows in the chunk with this index, which comes next."""

    type: Literal["session.interaction.applied"]
    event_id: str
    chunk_index: int


class InteractionRejected(Said):
    """The change will not be shown; the stream goes on as it was. An error with the same id follows while it does."""

    type: Literal["session.interaction.rejected"]
    event_id: str
    code: str
    message: str
    param: str | None


class SessionQueued(Said):
    """No place is free: the session waits, ``position`` 1 is next."""

    type: Literal["session.queued"]
    position: int
    queue_depth: int


class SessionInterrupted(Said):
    """The worker was lost; the stream goes on in another after a gap, without a missing picture."""

    type: Literal["session.interrupted"]
    session_id: str
    reason: str


class SessionPaused(Said):
    """Nothing more is made until session.resume; chunks up to ``next_chunk_index`` may still come."""

    type: Literal["session.paused"]
    session_id: str
    next_chunk_index: int


class SessionResumed(Said):
    """The session goes on after a pause."""

    type: Literal["session.resumed"]
    session_id: str
    next_chunk_index: int


class SessionPong(Said):
    type: Literal["session.pong"]


class SessionDone(Said):
    """The session ended in order; the connection closes with 1000, or with 1012 at a shutdown."""

    type: Literal["session.done"]
    session_id: str
    chunks: int
    stopped: bool
    reason: str
    resumable: bool  # after a shutdown: session.resume works at the next server


class Error(Said):
    """Before video.start it ends the connection; later only when the socket closes behind it."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None
    retryable: bool
    retry_after_seconds: float | None = None
    event_id: str | None = None


ServerMessage = (
    VideoStart
    | ChunkMetadata
    | InteractionQueued
    | InteractionApplied
    | InteractionRejected
    | SessionQueued
    | SessionInterrupted
    | SessionPaused
    | SessionResumed
    | SessionPong
    | SessionDone
    | Error
)
SERVER_MESSAGES: dict[str, type[ServerMessage]] = {
    "video.start": VideoStart,
    "video.chunk_metadata": ChunkMetadata,
    "session.interaction.queued": InteractionQueued,
    "session.interaction.applied": InteractionApplied,
    "session.interaction.rejected": InteractionRejected,
    "session.queued": SessionQueued,
    "session.interrupted": SessionInterrupted,
    "session.paused": SessionPaused,
    "session.resumed": SessionResumed,
    "session.pong": SessionPong,
    "session.done": SessionDone,
    "error": Error,
}
