"""Watch and steer live streams of a Pafu server: ``connect`` here, or ``pafu_client.sync.connect`` without asyncio."""

from __future__ import annotations

from pafu_client.chunk_stats import ChunkStats
from pafu_client.errors import ConnectionLost, PafuError
from pafu_client.http import models, wait_until_ready
from pafu_client.messages import (
    Camera,
    Chunk,
    ChunkMetadata,
    Event,
    InteractionApplied,
    InteractionFailed,
    InteractionQueued,
    Reconnecting,
    SessionDone,
    SessionInterrupted,
    SessionPaused,
    SessionQueued,
    SessionResumed,
    VideoStart,
)
from pafu_client.options import Options, WatchOptions
from pafu_client.stream import VideoStream, connect, watch

__version__ = "0.1.0"  # that of the server that it was written for

__all__ = [
    "Camera",
    "Chunk",
    "ChunkMetadata",
    "ChunkStats",
    "ConnectionLost",
    "Event",
    "InteractionApplied",
    "InteractionFailed",
    "InteractionQueued",
    "Options",
    "PafuError",
    "Reconnecting",
    "SessionDone",
    "SessionInterrupted",
    "SessionPaused",
    "SessionQueued",
    "SessionResumed",
    "VideoStart",
    "VideoStream",
    "WatchOptions",
    "connect",
    "models",
    "wait_until_ready",
    "watch",
]
