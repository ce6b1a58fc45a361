"""The messages between the front process and a worker: typed structs, msgpack, an explicit table.

A frame is a 4-byte big-endian length followed by one msgpack map whose ``type`` names the struct. Nothing else can
be decoded: no pickle, no class looked up by name.
"""

from __future__ import annotations

import struct
from typing import Annotated, cast

import msgspec

from cache.config import CacheConfig, PositionMode
from model.chunk_stats import ChunkStats, KeptTokens, figure
from server.config import Settings, place_of

HEADER = struct.Struct(">I")
MAX_FRAME = 256 * 2**20


class MessageError(ValueError):
    """The bytes are not a message of the table."""


class Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


class CacheChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cache of one session, budgets in latent frames."""

    policy: str
    budget_latents: float
    sink_latents: float
    recent_latents: float
    position_mode: str = "relative"
    kv_dtype: str = "auto"

    @classmethod
    def of(cls, cache: CacheConfig) -> CacheChoice:
        return cls(
            policy=cache.policy,
            budget_latents=cache.budget_latents,
            sink_latents=cache.sink_latents,
            recent_latents=cache.recent_latents,
            position_mode=cache.position_mode,
            kv_dtype=cache.kv_dtype,
        )

    @property
    def config(self) -> CacheConfig:
        return CacheConfig(
            policy=self.policy,
            budget_latents=self.budget_latents,
            sink_latents=self.sink_latents,
            recent_latents=self.recent_latents,
            position_mode=cast(PositionMode, self.position_mode),
            kv_dtype=self.kv_dtype,
        )


# ---- front to worker


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What belongs to a model besides its weights: where the other parts are, if elsewhere, and its pictures' size."""

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
            size=None if settings.size is None else (settings.spec.width, settings.spec.height),
        )


class Configure(Message, frozen=True, tag="configure"):
    """The first message: which model to load and how."""

    model: str
    weights: str | None
    device: str
    threads: int
    cache_room_bytes: int  # for the caches of all sessions together; 0: a share of what the worker finds free
    beat_seconds: float
    memory_share: float = 1.0  # of what is free on the device; others that share its memory take the rest
    log_level: str = "info"
    log_format: str = "text"
    salience_head: str | None = None  # None: the one beside the weights, if there is one
    parts: Parts = Parts()
    usual: CacheChoice | None = None  # measure the time of a chunk with this cache
    called: dict[str, str] = {}  # what the operator calls the settings that it made


class Camera(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order for the camera: pan speed in pixels per picture (+ is right), a position to cut to in screens, a speed
    upwards in pixels per picture."""

    speed: int | None = None
    cut_to: float | None = None
    rise: int | None = None


CameraPosition = tuple[int, ...]  # numbers of a model.camera.CameraState


class PastChunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finished chunk as it is kept outside the worker: its clean latents, float32 in the spec's shape."""

    index: int
    prompt: str
    camera: CameraPosition  # when the chunk began
    latents: bytes


class Past(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stream stood before chunk ``next_index``, and the chunks that restore its memory."""

    next_index: int
    pictures: int  # made so far
    camera: CameraPosition
    chunks: list[PastChunk]


class Interact(Message, frozen=True, tag="interact"):
    """Change a running session from its next chunk on, or from chunk ``at_chunk`` on where that is later; the event
    counts as active for ``chunks`` chunks.
    """

    session: str
    event_id: str
    prompt: str | None
    camera: Camera | None
    chunks: int
    at_chunk: int = 0


class Open(Message, frozen=True, tag="open"):
    """Begin a session. ``pictures`` is the length of the whole video, None for no end.

    A ``background`` session has no viewer: it gets the time that live sessions leave over. With ``past`` it goes on
    where another worker stopped, with the index, the timestamps and (by re-caching) the memory that it had. With
    ``memory`` every fragment says which tokens are kept; with ``jpeg`` it also brings its pictures as JPEG.
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
    snapshot: str | None = None  # file with a parked session's exact state; ``past`` then gives only the counters
    jpeg: bool = False
    in_force: dict[str, int] = {}  # events already shown, with the number of chunks for which they stay active
    request: str = ""  # id of the request that began it, for the worker's log
    trace: str = ""  # and of the trace that it belongs to
    image: bytes = b""  # PNG of the model's size that the video begins with
    changes: list[Interact] = []  # known from the beginning


class Playhead(Message, frozen=True, tag="playhead"):
    """The viewer shows the picture at this media time."""

    session: str
    seconds: float


class Delivered(Message, frozen=True, tag="delivered"):
    """A fragment was sent to the viewer."""

    session: str
    index: int


class Pause(Message, frozen=True, tag="pause"):
    """Make nothing more for a session until Resume."""

    session: str


class Resume(Message, frozen=True, tag="resume"):
    """Go on after Pause."""

    session: str


class Park(Message, frozen=True, tag="park"):
    """Write a session's state to the file ``path`` and free its memory; it ends with reason "parked"."""

    session: str
    path: str


class Jpeg(Message, frozen=True, tag="jpeg"):
    """Add JPEG pictures to the fragments from now on, or stop."""

    session: str
    wanted: bool


class Finish(Message, frozen=True, tag="finish"):
    """End a session after the chunk in hand."""

    session: str


class Close(Message, frozen=True, tag="close"):
    """Drop a session at once: nobody listens any more."""

    session: str


class Shutdown(Message, frozen=True, tag="shutdown"):
    """Leave the step loop and exit."""


# ---- worker to front


class Ready(Message, frozen=True, tag="ready"):
    """The model is loaded and a warm-up chunk was made."""

    weights: str
    digest: str  # tells sets of weights apart
    device: str
    load_seconds: float
    warm_up_seconds: float
    dtype: str  # of the caches
    cache_room_bytes: int  # for the caches of all sessions together
    versions: dict[str, str]
    chunk_seconds: float | None = None  # of a session with the default cache that runs alone; None: not measured


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The worker can never start like this (missing weights, unknown device), so do not restart it."""

    message: str


class Beat(Message, frozen=True, tag="beat"):
    """The heartbeat, sent from the step loop: a process that is alive but stuck falls silent."""

    sessions: int
    rss_bytes: int
    device_bytes: dict[str, int] = {}  # by kind, see server.telemetry.metrics; empty without a GPU
    cache_bytes: int = 0  # over all sessions
    cache_tokens: int = 0
    cache_budget: int = 0  # tokens that the sessions' budgets allow


class Opened(Message, frozen=True, tag="opened"):
    """The session exists; ``mime`` names the codec as the encoder's own SPS says, ``init`` is its ftyp and moov."""

    session: str
    mime: str
    init: bytes


class ServedStats(ChunkStats, frozen=True, kw_only=True):
    """The model's figures and the worker's own; its ``seconds`` also hold encode and total."""

    chunk_seconds: Annotated[float, figure("Time from noise to encoded bytes.")]
    lead_seconds: Annotated[float, figure("Media that the viewer has ahead of its playhead.")]
    memory: Annotated[KeptTokens | None, figure("The kept tokens, for a session that asked for them.")] = None

    @classmethod
    def of(
        cls, stats: ChunkStats, seconds: dict[str, float], lead_seconds: float, memory: KeptTokens | None
    ) -> ServedStats:
        """All that the model says, and ``seconds`` (with ``total``) in the place of its own."""
        model = {**msgspec.structs.asdict(stats), "seconds": seconds}
        return cls(**model, chunk_seconds=seconds["total"], lead_seconds=lead_seconds, memory=memory)


class Fragment(Message, frozen=True, tag="fragment"):
    """One chunk, encoded: ``data`` is an fMP4 fragment, the first with ftyp and moov in front."""

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
    remembered: list[int]  # chunks of which the cache holds tokens
    jpegs: list[bytes] = []  # one per picture, while a viewer wants them


class Rejected(Message, frozen=True, tag="rejected"):
    """An interaction that the model refused; the session goes on as before."""

    session: str
    event_id: str
    message: str


class Ended(Message, frozen=True, tag="ended"):
    """The session is over and its memory free. ``code`` is set when it failed (see server.errors)."""

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
    """Length and body of a message."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """Bytes of the body that follows this 4-byte header. Raises MessageError above MAX_FRAME."""
    length: int = HEADER.unpack(header)[0]
    if length > MAX_FRAME:
        raise MessageError(f"a frame of {length} bytes; the most is {MAX_FRAME}")
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
