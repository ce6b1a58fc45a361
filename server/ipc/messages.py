"""Messages between the front and a worker: typed structs, encoded with msgpack.

A frame is a 4-byte big-endian length and one msgpack map, whose ``type`` names the struct. Only the structs listed here
are decoded: no pickle, no class lookup by name.
"""

from __future__ import annotations

import struct
from dataclasses import asdict
from typing import Annotated

import msgspec

from cache.config import CacheConfig
from model.stream.chunk_stats import ChunkStats, KeptTokens, figure
from server.config import Settings, place_of

HEADER = struct.Struct(">I")
MAX_FRAME = 256 * 2**20


class MessageError(ValueError):
    """The bytes are not one of the known messages."""


class Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


class CacheChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cache configuration of one session; budgets in latent frames."""

    policy: str
    budget_latents: float
    sink_latents: float
    recent_latents: float
    position_mode: str = "relative"
    kv_dtype: str = "auto"
    host_latents: float = 0.0

    @classmethod
    def of(cls, cache: CacheConfig) -> CacheChoice:
        return cls(**asdict(cache))

    @property
    def config(self) -> CacheConfig:
        return CacheConfig(**msgspec.structs.asdict(self))


# ---- front to worker


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parts of a model other than its main weights, and the picture size."""

    text_encoder: str | None = None
    vae: str | None = None
    text_placement: str = "offload"
    size: tuple[int, int] | None = None  # width, height; None: the model's own

    @classmethod
    def of(cls, settings: Settings) -> Parts:
        return cls(
            text_encoder=place_of(settings.text_encoder),
            vae=place_of(settings.vae),
            text_placement=settings.text_placement,
            size=(settings.spec.width, settings.spec.height),
        )


class Configure(Message, frozen=True, tag="configure"):
    """The first message to a worker: which model to load, and how."""

    model: str
    weights: str | None
    device: str
    threads: int
    cache_room_bytes: int  # for all sessions' caches; 0: a share of the memory that the worker finds free
    beat_seconds: float
    memory_share: float = 1.0  # of the device's free memory; workers on the same device take the rest
    log_level: str = "info"
    log_format: str = "text"
    salience_head: str | None = None  # None: the file next to the weights, if any
    parts: Parts = Parts()
    usual: CacheChoice | None = None  # the default cache; used to measure the chunk time
    called: dict[str, str] = {}  # setting -> the name under which the operator set it
    patience: float = 60.0  # seconds without a heartbeat, after which the front replaces the worker


class Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A camera command: ``speed`` (+ is right) and ``rise`` (+ is up) in pixels per picture, ``cut_to`` in screens."""

    speed: int | None = None
    cut_to: float | None = None
    rise: int | None = None


CameraPosition = tuple[int, ...]  # the fields of a model.camera.CameraState


class PastChunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished chunk, stored outside the worker as its clean latents (float32 in the spec's shape)."""

    index: int
    prompt: str
    camera: CameraPosition  # at the start of the chunk
    latents: bytes


class Past(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a stream before chunk ``next_index``, with the chunks that restore its cache."""

    next_index: int
    pictures: int  # made so far
    camera: CameraPosition
    chunks: list[PastChunk]


class Interact(Message, frozen=True, tag="interact"):
    """Change a running session from its next chunk on, but not before chunk ``at_chunk``.

    The event counts as active for ``chunks`` chunks.
    """

    session: str
    event_id: str
    prompt: str | None
    camera: Camera | None
    chunks: int
    at_chunk: int = 0


class Open(Message, frozen=True, tag="open"):
    """Open a session. ``pictures`` is the length of the whole video; None: endless.

    A ``background`` session has no viewer and gets the time that live sessions leave over. With ``past``, the session
    continues where another worker stopped: same index and timestamps, its cache rebuilt from the latents. With
    ``memory``, every fragment lists the kept tokens; with ``jpeg``, it also holds its pictures as JPEG.
    """

    session: str
    prompt: str
    seed: int
    lead_seconds: float
    cache: CacheChoice
    pictures: int | None
    background: bool = False
    past: Past | None = None
    memory: bool = False
    snapshot: str | None = None  # file with a parked session's exact state; only the counters of ``past`` are then used
    jpeg: bool = False
    in_force: dict[str, int] = {}  # event id -> chunks for which it stays active
    request: str = ""  # id of the request that started it, for the worker's log
    trace: str = ""  # id of its trace
    image: bytes = b""  # first picture of the video, PNG of the model's size
    changes: list[Interact] = []  # known at the start


class Playhead(Message, frozen=True, tag="playhead"):
    """The viewer's player is at this media time."""

    session: str
    seconds: float


class Delivered(Message, frozen=True, tag="delivered"):
    """A fragment was sent to the viewer."""

    session: str
    index: int


class Pause(Message, frozen=True, tag="pause"):
    """Generate nothing more for a session until Resume."""

    session: str


class Resume(Message, frozen=True, tag="resume"):
    """Continue after Pause."""

    session: str


class Park(Message, frozen=True, tag="park"):
    """Write a session's state to the file ``path`` and free its memory. The session ends with reason "parked"."""

    session: str
    path: str


class Jpeg(Message, frozen=True, tag="jpeg"):
    """Start or stop adding JPEG pictures to the fragments."""

    session: str
    wanted: bool


class Finish(Message, frozen=True, tag="finish"):
    """End a session after its current chunk."""

    session: str


class Close(Message, frozen=True, tag="close"):
    """Drop a session at once, because the front no longer reads its events."""

    session: str


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Leave the step loop and exit."""


# ---- worker to front


class Ready(Message, frozen=True, tag="ready"):
    """The model is loaded and has generated a warm-up chunk."""

    weights: str
    digest: str  # identifies the weights
    device: str
    load_seconds: float
    warm_up_seconds: float
    dtype: str  # of the caches
    cache_room_bytes: int  # for all sessions' caches
    versions: dict[str, str]
    chunk_seconds: float | None = None  # of a single session with the default cache; None: not measured
    codec_bytes: int | None = None  # that the video codec keeps for a session; None: what the spec says
    lacking: dict[str, str] = {}  # cache policies that these weights cannot serve -> why


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The worker cannot start with this configuration (missing weights, unknown device): do not restart it."""

    message: str


class Beat(Message, frozen=True, tag="beat"):
    """The heartbeat. The step loop sends it, so a stuck worker stops sending."""

    sessions: int
    rss_bytes: int
    device_bytes: dict[str, int] = {}  # by kind, see server.telemetry.metrics; empty without a GPU
    cache_bytes: int = 0  # of all sessions
    cache_tokens: int = 0
    cache_budget: int = 0  # tokens that the sessions' budgets allow


class Opened(Message, frozen=True, tag="opened"):
    """The session exists; ``mime`` has the codec string from the encoder's SPS, ``init`` is ftyp and moov."""

    session: str
    mime: str
    init: bytes


class ServedStats(ChunkStats, frozen=True, kw_only=True):
    """The model's figures and the worker's; ``seconds`` also has the keys encode and total."""

    chunk_seconds: Annotated[float, figure("Time from noise to encoded bytes.")]
    lead_seconds: Annotated[float, figure("Media that the viewer has ahead of its playhead.")]
    memory: Annotated[KeptTokens | None, figure("The kept tokens, if the session requested them.")] = None

    @classmethod
    def of(
        cls, stats: ChunkStats, seconds: dict[str, float], lead_seconds: float, memory: KeptTokens | None
    ) -> ServedStats:
        """The model's figures, with ``seconds`` (which must hold ``total``) replacing the model's."""
        model = {**msgspec.structs.asdict(stats), "seconds": seconds}
        return cls(**model, chunk_seconds=seconds["total"], lead_seconds=lead_seconds, memory=memory)


class Fragment(Message, frozen=True, tag="fragment"):
    """One encoded chunk: ``data`` is an fMP4 fragment; in the first, ftyp and moov precede it."""

    session: str
    index: int
    pictures: int
    data: bytes
    started: list[str]
    active: list[str]
    completed: list[str]
    stats: ServedStats
    past: PastChunk  # this chunk, for server.live.resume_point
    camera: CameraPosition  # after the chunk
    remembered: list[int]  # indices of the chunks that still have tokens in the cache
    jpegs: list[bytes] = []  # one per picture, while a viewer wants them


class Rejected(Message, frozen=True, tag="rejected"):
    """The model refused an interaction; the session continues unchanged."""

    session: str
    event_id: str
    message: str


class Ended(Message, frozen=True, tag="ended"):
    """The session is over and its memory is free. ``code`` is set if it failed (see server.errors)."""

    session: str
    chunks: int
    reason: str
    code: str | None
    message: str


FrontMessage = (
    Configure | Open | Interact | Playhead | Delivered | Pause | Resume | Park | Jpeg | Finish | Close | Shutdown
)
WorkerMessage = Ready | StartFailed | Beat | Opened | Fragment | Rejected | Ended

_encoder = msgspec.msgpack.Encoder()
_front_decoder: msgspec.msgpack.Decoder[FrontMessage] = msgspec.msgpack.Decoder(FrontMessage)
_worker_decoder: msgspec.msgpack.Decoder[WorkerMessage] = msgspec.msgpack.Decoder(WorkerMessage)


def frame(message: Message) -> bytes:
    """A message as bytes: its length, then its body."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Length of the body after this 4-byte header. Raises MessageError above MAX_FRAME."""
    length: int = HEADER.unpack(header)[0]
    if length > MAX_FRAME:
        raise MessageError(f"a frame of {length} bytes exceeds the maximum of {MAX_FRAME}")
    return length


def decode_front(body: bytes) -> FrontMessage:
    """A message from the front. Raises MessageError."""
    try:
        return _front_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise MessageError(f"not a message of the front: {error}") from error


def decode_worker(body: bytes) -> WorkerMessage:
    """A message from a worker. Raises MessageError."""
    try:
        return _worker_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise MessageError(f"not a message of a worker: {error}") from error
