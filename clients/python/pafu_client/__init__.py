"""Live streams (``connect``, ``watch``), stills (``still``) and videos as jobs (``Jobs``) of a Pafu server.

``pafu_client.sync`` has the same names without asyncio.
"""

from __future__ import annotations

from pafu_client.chunk_stats import ChunkStats
from pafu_client.errors import ConnectionLost, PafuError
from pafu_client.http import models, wait_until_ready
from pafu_client.jobs import Jobs, Video
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
from pafu_client.options import Options, StillOptions, VideoOptions, WatchOptions
from pafu_client.pictures import Picture
from pafu_client.stills import still
from pafu_client.stream import VideoStream, connect, watch

__version__ = "0.1.0"  # equal to the version of the server

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
    "Jobs",
    "Options",
    "PafuError",
    "Picture",
    "Reconnecting",
    "SessionDone",
    "SessionInterrupted",
    "SessionPaused",
    "SessionQueued",
    "SessionResumed",
    "StillOptions",
    "Video",
    "VideoOptions",
    "VideoStart",
    "VideoStream",
    "WatchOptions",
    "connect",
    "models",
    "still",
    "wait_until_ready",
    "watch",
]
