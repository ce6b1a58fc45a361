"""The server's messages as frozen records. ``raw`` has all fields, including those unknown to this version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, TypedDict, cast

from pafu_client.chunk_stats import ChunkStats
from pafu_client.errors import PafuError


class Camera(TypedDict, total=False):
    """A camera command, from the next chunk on; set ``speed`` or ``pan``, not both."""

    speed: int  # pixels per picture, positive to the right, 0 stops
    pan: Literal["left", "right", "hold"]
    cut_to: float  # where to jump, in screens from the session's starting point
    rise: int  # pixels per picture, positive upwards, 0 keeps the height; for models whose camera rises


@dataclass(frozen=True)
class VideoStart:
    """The server accepted the session. ``mime`` is the container and codec, ``config`` the accepted options."""

    request_id: str
    session_id: str
    format: str
    mime: str
    config: dict[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def resume_token(self) -> str | None:
        """The token to resume the session over another connection; None if the server does not support it."""
        token = self.raw.get("resume_token")
        return None if token is None else str(token)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per part of the prompt that the model will not draw."""
        return tuple(map(str, self.raw.get("warnings") or ()))

    @property
    def fps(self) -> float:
        """Pictures per second of the stream."""
        return float(self.config.get("fps") or 16)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> VideoStart:
        texts = {name: str(body.get(name) or "") for name in ("request_id", "session_id", "format", "mime")}
        return cls(**texts, config=dict(body.get("config") or {}), raw=body)


@dataclass(frozen=True)
class ChunkMetadata:
    """The description of one binary frame."""

    kind: str
    index: int  # transport_chunk_index
    generation_index: int
    num_frames: int
    byte_length: int
    started_event_ids: tuple[str, ...]
    active_event_ids: tuple[str, ...]
    completed_event_ids: tuple[str, ...]
    stats: ChunkStats
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> ChunkMetadata:
        """Raises PafuError ``bad_message`` for a missing or invalid number."""
        try:
            index = int(body["transport_chunk_index"])
            return cls(
                kind=str(body.get("kind", "media")),
                index=index,
                generation_index=int(body.get("generation_chunk_index", index)),
                num_frames=int(body.get("num_frames") or 0),
                byte_length=int(body["byte_length"]),
                started_event_ids=tuple(body.get("started_event_ids") or ()),
                active_event_ids=tuple(body.get("active_event_ids") or ()),
                completed_event_ids=tuple(body.get("completed_event_ids") or ()),
                stats=cast(ChunkStats, dict(body.get("stats") or {})),
                raw=body,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PafuError("bad_message", f"the server sent invalid chunk metadata: {error!r}") from None


@dataclass(frozen=True)
class Chunk:
    """One chunk of video. The joined ``data`` of a stream's chunks is a playable file."""

    metadata: ChunkMetadata
    data: bytes = field(repr=False)

    def pictures(self) -> list[bytes]:
        """The bytes of each picture, for formats ``h264`` and ``jpeg``. Raises PafuError ``unsupported`` for m4s."""
        sizes = self.metadata.raw.get("frame_sizes")
        if not sizes:
            raise PafuError("unsupported", "this format does not separate pictures; use format jpeg or h264", "format")
        ends = list(accumulate(sizes))
        return [self.data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@dataclass(frozen=True)
class SessionDone:
    """The stream ended normally. ``reason``: "stopped", "complete", "server_shutdown", or "" if the server gives none.

    resumable: the next server can continue the session after a shutdown.
    """

    chunks: int
    stopped: bool
    reason: str
    resumable: bool = False

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> SessionDone:
        chunks, reason = int(body.get("chunks") or 0), str(body.get("reason") or "")
        return cls(chunks, bool(body.get("stopped")), reason, bool(body.get("resumable")))


@dataclass(frozen=True)
class InteractionQueued:
    """The server received a change, which waits for the next chunk."""

    event_id: str


@dataclass(frozen=True)
class InteractionApplied:
    """A change takes effect with chunk ``chunk_index``."""

    event_id: str
    chunk_index: int


@dataclass(frozen=True)
class InteractionFailed:
    """The server refused a message, and the stream continues; ``event_id`` is None if the server did not name it."""

    event_id: str | None
    error: PafuError


@dataclass(frozen=True)
class SessionQueued:
    """All places are taken: the session waits at ``position``; 1 is next."""

    position: int
    queue_depth: int

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> SessionQueued:
        return cls(int(body.get("position") or 0), int(body.get("queue_depth") or 0))


@dataclass(frozen=True)
class SessionInterrupted:
    """The server lost a worker; after a gap the stream continues in another one, with no picture missing."""

    reason: str


@dataclass(frozen=True)
class SessionPaused:
    """Generation has stopped until ``resume()``; chunks before ``next_chunk_index`` may still arrive."""

    next_chunk_index: int


@dataclass(frozen=True)
class SessionResumed:
    """The stream continues with ``next_chunk_index``, after ``resume()`` or over a new connection."""

    next_chunk_index: int


@dataclass(frozen=True)
class Reconnecting:
    """The connection was lost because of ``error``; attempt number ``attempt`` starts in ``seconds``."""

    attempt: int
    seconds: float
    error: PafuError


Event = (
    InteractionQueued
    | InteractionApplied
    | InteractionFailed
    | SessionQueued
    | SessionInterrupted
    | SessionPaused
    | SessionResumed
    | Reconnecting
)
