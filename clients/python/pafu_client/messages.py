"""What the server says, as small frozen records. ``raw`` keeps fields that are unknown here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, TypedDict, cast

from pafu_client.chunk_stats import ChunkStats
from pafu_client.errors import PafuError


class Camera(TypedDict, total=False):
    """What the camera is asked to do from the next chunk on; ``speed`` or ``pan``, not both."""

    speed: int  # pixels a picture, positive to the right, 0 holds
    pan: Literal["left", "right", "hold"]
    cut_to: float  # place to jump to, in screens from where the session began
    rise: int  # pixels a picture, positive upwards, 0 holds; for models whose camera rises


@dataclass(frozen=True)
class VideoStart:
    """The server took the session. ``mime`` names container and codec, ``config`` the accepted values."""

    request_id: str
    session_id: str
    format: str
    mime: str
    config: dict[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def resume_token(self) -> str | None:
        """What takes the session up over another connection; None where the server has no such thing."""
        token = self.raw.get("resume_token")
        return None if token is None else str(token)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about words of the prompt that will not be in the picture; none where the server tells none."""
        return tuple(map(str, self.raw.get("warnings") or ()))

    @property
    def fps(self) -> float:
        """Pictures a second of the stream."""
        return float(self.config.get("fps") or 16)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> VideoStart:
        texts = {name: str(body.get(name) or "") for name in ("request_id", "session_id", "format", "mime")}
        return cls(**texts, config=dict(body.get("config") or {}), raw=body)


@dataclass(frozen=True)
class ChunkMetadata:
    """What the server says about one binary frame."""

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
        """Raises PafuError ``bad_message`` when a number is missing or is none."""
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
            raise PafuError("bad_message", f"the server sent chunk metadata without sense: {error!r}") from None


@dataclass(frozen=True)
class Chunk:
    """One chunk of video. Joined in order, the ``data`` of a stream's chunks are a playable file."""

    metadata: ChunkMetadata
    data: bytes = field(repr=False)

    def pictures(self) -> list[bytes]:
        """The part of each picture, for formats ``h264`` and ``jpeg``. Raises PafuError ``unsupported`` for m4s."""
        sizes = self.metadata.raw.get("frame_sizes")
        if not sizes:
            raise PafuError("unsupported", "a chunk of this format has no parts; ask for jpeg or h264", "format")
        ends = list(accumulate(sizes))
        return [self.data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@dataclass(frozen=True)
class SessionDone:
    """The stream ended in order. ``reason``: "stopped", "complete", "server_shutdown"; "" where the server has none.

    resumable: after a shutdown, the server that follows can go on with the session.
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
    """The server heard a change; it waits for the next chunk."""

    event_id: str


@dataclass(frozen=True)
class InteractionApplied:
    """A change shows from chunk ``chunk_index`` on."""

    event_id: str
    chunk_index: int


@dataclass(frozen=True)
class InteractionFailed:
    """The server refused something while the stream goes on; ``event_id`` is None where it did not say which."""

    event_id: str | None
    error: PafuError


@dataclass(frozen=True)
class SessionQueued:
    """No place is free: the session waits for one; ``position`` 1 is next."""

    position: int
    queue_depth: int

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> SessionQueued:
        return cls(int(body.get("position") or 0), int(body.get("queue_depth") or 0))


@dataclass(frozen=True)
class SessionInterrupted:
    """The server lost a worker; the stream goes on in another one after a gap, without a missing picture."""

    reason: str


@dataclass(frozen=True)
class SessionPaused:
    """Nothing more is made until ``resume()``; chunks before ``next_chunk_index`` may still come."""

    next_chunk_index: int


@dataclass(frozen=True)
class SessionResumed:
    """The stream goes on with ``next_chunk_index``, after ``resume()`` or over a new connection."""

    next_chunk_index: int


@dataclass(frozen=True)
class Reconnecting:
    """The connection was lost because of ``error``; try number ``attempt`` to come back begins in ``seconds``."""

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
