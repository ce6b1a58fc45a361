"""Client messages of the live protocol. Parsing is strict; errors name the field and the allowed values.

The protocol is vLLM-Omni's ``WS /v1/realtime/video`` with additional optional fields. ``check_start`` and
``check_event`` check what depends on the model (sizes, prompt length, camera) against its ModelSpec.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache.config import PositionMode
from cache.errors import PolicyError
from model.camera import DEFAULT_SPEED, MAX_PLACE, MAX_RISE, MAX_SPEED, SPEED_STEP
from model.spec import SPECS, ModelSpec
from server.access.bounded_json import Bounds, read_object
from server.config import Settings, budget_of_window
from server.errors import PafuError, nearest, shown
from server.ipc import messages
from server.live import foreign
from server.media import picture
from server.media.formats import VIDEO_FORMATS

MAX_SEED = 2**63 - 1
MAX_MEDIA_SECONDS = 1e9
MAX_TRANSITION_CHUNKS = 64
SIZE = re.compile(r"\d{1,5}x\d{1,5}")
MAX_CHUNK = 2**53
MAX_KNOWN_CHANGES = 64  # in session.start

BUDGETS = {  # field -> conversion to latent frames
    "budget_latents": lambda amount, spec: amount,
    "budget_tokens": lambda amount, spec: amount / spec.tokens_per_latent,
    "window_latents": budget_of_window,
}

EventId = Annotated[str, Field(min_length=1, max_length=128)]
SessionId = Annotated[str, Field(min_length=1, max_length=64)]


class Wire(BaseModel):
    """Strict parsing: no type coercion ("12" is not a number, true not an integer), no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CacheParams(Wire):
    """The cache of one session, in latent frames (fractions allowed). Omitted fields take the server's defaults."""

    policy: str | None = None
    budget_latents: float | None = Field(default=None, description="from one token's share up to the server's limit")
    budget_tokens: int | None = Field(
        default=None, ge=-(2**24), le=2**24, description="tokens per layer, instead of budget_latents"
    )
    window_latents: float | None = Field(
        default=None, gt=0, le=4096, description="instead of a budget: window that includes the chunk being generated"
    )
    sink_latents: float | None = Field(default=None, ge=0, le=4096)
    recent_latents: float | None = Field(default=None, ge=0, le=4096)
    position_mode: PositionMode | None = Field(default=None, description="default: the model's own")
    kv_dtype: Literal["auto", "bf16", "int8", "int4"] | None = Field(
        default=None, description="storage type of cached tokens"
    )


class ExtraParams(Wire):
    """Parameters in addition to vLLM-Omni's fields."""

    cache: CacheParams | None = None


class CameraVelocity(Wire):
    """vLLM-Omni's camera: metres per picture (right, up, forward), and a rotation quaternion (x, y, z, w)."""

    translation: list[float] = Field(default=[0.0, 0.0, 0.0], min_length=3, max_length=3)
    rotation: list[float] = Field(default=[0.0, 0.0, 0.0, 1.0], min_length=4, max_length=4)


class CameraEvent(Wire):
    """A camera command. ``mode`` and ``data`` are vLLM-Omni's equivalent of the other fields; only its mode velocity is
    offered (there, ``data`` without a mode is a target).

    ``speed``: pixels per picture (+ is right); ``pan``: a direction instead; ``cut_to``: screens from the start;
    ``rise``: pixels per picture (+ is up), for models whose camera can rise.
    """

    mode: Literal["velocity", "target"] | None = None
    data: CameraVelocity | None = None

    speed: int | None = Field(default=None, ge=-MAX_SPEED, le=MAX_SPEED, multiple_of=SPEED_STEP)
    pan: Literal["left", "right", "hold"] | None = None
    cut_to: float | None = Field(default=None, ge=-MAX_PLACE, le=MAX_PLACE)
    rise: int | None = Field(default=None, ge=-MAX_RISE, le=MAX_RISE)


class MultiModalData(Wire):
    """vLLM-Omni's container for inputs other than text."""

    camera: CameraEvent | None = None


class Event(Wire):
    """A new prompt, a camera command, or both."""

    prompt: str | None = None
    multi_modal_data: MultiModalData | None = None


class Interaction(Wire):
    """``at_chunk``: first chunk that shows the change. Omitted or already generated: the next chunk."""

    event_id: EventId | None = None
    event: Event
    transition_chunks: int | None = Field(default=None, ge=0, le=MAX_TRANSITION_CHUNKS)
    at_chunk: int | None = Field(default=None, ge=0, le=MAX_CHUNK)


class SessionStart(Wire):
    """Starts a session. Size and rate, if given, must be the model's own; without ``num_frames`` it is endless.

    ``memory`` adds the kept tokens to every chunk's statistics (for the page's memory view). ``interactions`` are
    changes known at the start, each with its ``at_chunk``: same seed and changes, same pictures.
    """

    type: Literal["session.start"]
    model: str | None = None
    prompt: str
    format: str = "m4s"
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    extra_params: ExtraParams | None = None
    image: Any = Field(default=None, description="first picture of the video, as a data URL")
    image_reference: Any = Field(default=None, description="the same, under another server's field name")
    size: str | None = None
    seconds: float | str | None = None
    num_inference_steps: int | None = None
    streaming_buffer_seconds: float | None = Field(default=None, gt=0)
    memory: bool = False
    interactions: list[Interaction] = Field(default=[], max_length=MAX_KNOWN_CHANGES)


class SessionInteraction(Wire):
    """Change the prompt or the camera."""

    type: Literal["session.interaction"]
    interaction: Interaction


class SessionPlayback(Wire):
    """Report the playhead, in media seconds."""

    type: Literal["session.playback"]
    position_seconds: float = Field(ge=0, le=MAX_MEDIA_SECONDS)


class SessionPing(Wire):
    """Request a session.pong."""

    type: Literal["session.ping"]


class SessionStop(Wire):
    """End the session; from a watcher, stop watching."""

    type: Literal["session.stop"]


class SessionPause(Wire):
    """Stop generating until session.resume."""

    type: Literal["session.pause"]


class SessionResume(Wire):
    """As the first message: resume a session on this connection. Later, without fields: continue after a pause."""

    type: Literal["session.resume"]
    session_id: SessionId | None = None
    token: str | None = Field(default=None, max_length=256)
    last_chunk_index: int | None = Field(default=None, ge=-1, le=2**53)
    format: str | None = None


class SessionWatch(Wire):
    """Watch a session without steering it; the first message of a connection."""

    type: Literal["session.watch"]
    session_id: SessionId
    format: str = "m4s"


FirstMessage = SessionStart | SessionResume | SessionWatch
ClientMessage = (
    SessionStart
    | SessionInteraction
    | SessionPlayback
    | SessionPing
    | SessionStop
    | SessionPause
    | SessionResume
    | SessionWatch
)
CLIENT_MESSAGES: dict[str, type[ClientMessage]] = {
    "session.start": SessionStart,
    "session.interaction": SessionInteraction,
    "session.playback": SessionPlayback,
    "session.ping": SessionPing,
    "session.stop": SessionStop,
    "session.pause": SessionPause,
    "session.resume": SessionResume,
    "session.watch": SessionWatch,
}


# Fields that hold pictures, which may be large.
PICTURE_FIELDS = ("image", "image_reference", "input_reference", "image_url")
CONTROL = Bounds()


def first_bounds(settings: Settings) -> Bounds:
    """Size limits of a connection's first message, which may hold a picture."""
    return Bounds(large=dict.fromkeys(PICTURE_FIELDS, settings.max_start_bytes))


def control_bounds(settings: Settings) -> Bounds:
    """Size limits of every later message."""
    return Bounds(size=settings.max_control_bytes)


def parse(text: str, bounds: Bounds = CONTROL) -> ClientMessage:
    """Parse one client message. Raises PafuError with the field at fault in ``param``."""
    data = read_object(text.encode("utf-8", "surrogatepass"), "the message", bounds)
    kind = data.get("type")
    if kind is None:
        raise PafuError("missing_field", f"a message needs a type; known: {', '.join(CLIENT_MESSAGES)}", "type")
    if not isinstance(kind, str) or kind not in CLIENT_MESSAGES:
        hint = nearest(str(kind)[:64], list(CLIENT_MESSAGES))
        if any(word in str(kind) for word in ("prompt", "update", "camera", "control")):
            hint = "change prompt or camera with 'session.interaction'"
        raise PafuError("unknown_type", f"unknown message type {str(kind)[:64]!r}; {hint}", "type")
    if kind == "session.start":
        data = without_foreign(data)
    try:
        return CLIENT_MESSAGES[kind].model_validate(data)
    except ValidationError as error:
        raise _explain(kind, error) from None


def without_foreign(start: dict[str, Any]) -> dict[str, Any]:
    """session.start without other servers' fields. Raises PafuError unsupported if one has an effect."""
    start = foreign.taken(foreign.unfolded(start))
    extra = start.get("extra_params")
    if isinstance(extra, dict):
        start["extra_params"] = foreign.taken(extra, "extra_params.")
    return start


def _explain(kind: str, error: ValidationError) -> PafuError:
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return PafuError("missing_field", f"{kind} needs the field {param!r}", param)
    if first["type"] == "extra_forbidden":
        hint = nearest(str(first["loc"][-1]), fields_at(CLIENT_MESSAGES[kind], first["loc"][:-1]))
        return PafuError("unknown_field", f"{kind} has no field {param[:128]!r}; {hint}", param[:128])
    given = shown(first["input"])
    if first["type"] == "model_type":
        allowed = ", ".join(fields_at(CLIENT_MESSAGES[kind], first["loc"]))
        return PafuError("invalid_message", f"{param} must be an object with fields of {allowed}; got {given}", param)
    return PafuError("invalid_message", f"{param}: {first['msg']}; got {given}", param)


def fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at ``path`` inside ``model``."""
    for part in path:
        if isinstance(part, int):  # a list index
            continue
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(t for t in options if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)


# ---- checks against the model


def check_start(start: SessionStart, spec: ModelSpec, settings: Settings) -> messages.Open:
    """The open request for the worker, without a session id. Raises PafuError."""
    if start.model is not None and start.model != spec.name:
        reason = "is known but not loaded" if start.model in SPECS else "is unknown"
        raise PafuError("unknown_model", f"model {start.model[:64]!r} {reason}; this server has {spec.name!r}", "model")
    check_format(start.format)
    for field in ("width", "height", "fps"):
        given, own = getattr(start, field), getattr(spec, field)
        if given is not None and given != own:
            reason = f"{field} {given:g} is not offered; {spec.name} makes {spec.width}x{spec.height} at {spec.fps} fps"
            raise PafuError("unsupported", reason, field)
    name = "image" if start.image is not None else "image_reference"
    reference = getattr(start, name)
    check_size(start.size, spec)
    check_steps(start.num_inference_steps, spec)
    cache = _cache(start, spec, settings)
    check_held(cache, start.num_frames or 1, spec, settings)
    return messages.Open(
        session="",
        prompt=check_prompt(start.prompt, spec),
        seed=0 if start.seed is None else start.seed,
        lead_seconds=_lead(start, settings),
        cache=cache,
        pictures=_pictures(start, spec, settings),
        memory=start.memory,
        jpeg=start.format == "jpeg",
        image=b"" if reference is None else check_image(reference, spec, name),
    )


def check_image(reference: Any, spec: ModelSpec, param: str) -> bytes:
    """The first picture of the video, as PNG of the model's size. Raises PafuError."""
    try:
        return picture.fitted(picture.data_of(reference), spec.width, spec.height)
    except picture.PictureError as error:
        raise PafuError("invalid_message", str(error), param) from None


def check_size(size: str | None, spec: ModelSpec) -> None:
    """Raises PafuError unless the size is the model's own."""
    own = f"{spec.width}x{spec.height}"
    if size is None or size == own:
        return
    if not SIZE.fullmatch(size):
        raise PafuError("invalid_message", f"size {size[:32]!r} is not WIDTHxHEIGHT; {spec.name} makes {own}", "size")
    raise PafuError("unsupported", f"size {size} is not offered; {spec.name} makes {own}", "size")


def check_steps(steps: int | None, spec: ModelSpec) -> None:
    """Raises PafuError unless the number of steps is the model's own."""
    own = len(spec.denoising_steps)
    if steps not in (None, own):
        raise PafuError("unsupported", f"{spec.name} always uses {own} steps", "num_inference_steps")


def check_held(
    cache: messages.CacheChoice,
    pictures: int,
    spec: ModelSpec,
    settings: Settings,
    param: str | None = "extra_params.cache",
) -> None:
    """Raises PafuError if policy ``full``, which never evicts, would exceed the budget before the end of the video."""
    chunks = 1 + math.ceil(max(0, pictures - spec.pictures_in_chunk(0)) / spec.pictures_in_chunk(1))
    if cache.policy == "full" and chunks * spec.tokens_per_chunk > cache.config.budget_tokens(spec.tokens_per_latent):
        raise PafuError(
            "invalid_message",
            f"policy 'full' never evicts: a video of {pictures} pictures needs {chunks * spec.chunk_latents} latent "
            f"frames, the budget is {cache.budget_latents:g}; raise it (up to {settings.cache_max_latents:g}), "
            "make the video shorter, or choose another policy",
            param,
        )


def check_format(name: str) -> str:
    """Raises PafuError for a format that is not offered."""
    if name not in VIDEO_FORMATS:
        raise PafuError(
            "unsupported", f"format {name[:64]!r} is not offered; allowed: {', '.join(VIDEO_FORMATS)}", "format"
        )
    return name


def check_resume(message: SessionResume) -> tuple[str, str, int]:
    """Session id, token and last chunk index of a resume message. Raises PafuError for a missing field."""
    for field in ("session_id", "token", "last_chunk_index"):
        if getattr(message, field) is None:
            raise PafuError("missing_field", f"session.resume needs the field {field!r} to resume a session", field)
    assert message.session_id is not None and message.token is not None and message.last_chunk_index is not None
    return message.session_id, message.token, message.last_chunk_index


def check_prompt(prompt: str, spec: ModelSpec, param: str = "prompt") -> str:
    """The stripped prompt. Raises PafuError if it is empty, too long or not text."""
    text = prompt.strip()
    if not text:
        raise PafuError("invalid_message", f"the prompt is empty; write 1 to {spec.max_prompt_chars} characters", param)
    if len(text) > spec.max_prompt_chars:
        reason = f"the prompt has {len(text)} characters; {spec.name} takes at most {spec.max_prompt_chars}"
        raise PafuError("invalid_message", reason, param)
    if any(0xD800 <= ord(c) <= 0xDFFF or c == "\0" for c in text):
        raise PafuError("invalid_message", "the prompt has invalid characters (NUL or lone surrogates)", param)
    return text


def check_event(interaction: Interaction, spec: ModelSpec) -> tuple[str | None, messages.Camera | None]:
    """An interaction's new prompt and camera command. Raises PafuError if it is invalid or has neither."""
    event = interaction.event
    path = "interaction.event"
    camera = event.multi_modal_data.camera if event.multi_modal_data else None
    if event.prompt is None and camera is None:
        raise PafuError("invalid_message", "the event is empty; give a prompt, a camera, or both", path)
    if camera is not None and not spec.camera:
        raise PafuError("unsupported", f"{spec.name} has no camera control", f"{path}.multi_modal_data.camera")
    if camera is not None and camera.rise and spec.camera and not spec.camera.rises:
        raise PafuError("unsupported", f"{spec.name}'s camera only pans", f"{path}.multi_modal_data.camera.rise")
    prompt = None if event.prompt is None else check_prompt(event.prompt, spec, f"{path}.prompt")
    return prompt, None if camera is None else _camera(camera, f"{path}.multi_modal_data.camera")


def change_of(interaction: Interaction, session: str, unnamed: str, spec: ModelSpec) -> messages.Interact:
    """The change for the worker; without an event id it gets the id ``unnamed``. Raises PafuError."""
    prompt, camera = check_event(interaction, spec)
    return messages.Interact(
        session=session,
        event_id=interaction.event_id or unnamed,
        prompt=prompt,
        camera=camera,
        chunks=interaction.transition_chunks or 1,
        at_chunk=interaction.at_chunk or 0,
    )


VELOCITY = 0.05  # metres per picture in vLLM-Omni's clients; equals our default speed
STILL = 1e-6  # metres or radians that are nothing


def _velocity(data: CameraVelocity, param: str) -> int:
    """Pan speed for a velocity, in pixels per picture. Raises PafuError for any other movement."""
    right, up, forward = data.translation
    turned, length = math.hypot(*data.rotation[:3]), math.hypot(*data.rotation)
    if max(abs(up), abs(forward)) > STILL or turned > STILL * length or not length:
        reason = "the camera only moves left and right: send translation [x, 0, 0], rotation [0, 0, 0, 1]"
        raise PafuError("unsupported", reason, f"{param}.data")
    most = VELOCITY * MAX_SPEED / DEFAULT_SPEED
    steps = max(-most, min(most, right)) / VELOCITY * DEFAULT_SPEED / SPEED_STEP
    return SPEED_STEP * (round(steps) or int(math.copysign(bool(right), right)))


def _camera(camera: CameraEvent, param: str) -> messages.Camera:
    asked = any(each is not None for each in (camera.speed, camera.pan, camera.cut_to, camera.rise))
    if camera.data is not None:
        if asked:
            raise PafuError("invalid_message", "give either data or speed, pan, cut_to and rise", param)
        if camera.mode != "velocity":
            reason = "the camera takes no target pose: send mode 'velocity', or cut_to instead of mode and data"
            raise PafuError("unsupported", reason, f"{param}.mode")
        return messages.Camera(speed=_velocity(camera.data, param), cut_to=None)
    if camera.speed is not None and camera.pan is not None:
        raise PafuError("invalid_message", "give either speed or pan, not both", param)
    if not asked:
        raise PafuError("invalid_message", "give the camera at least one of speed, pan, cut_to, rise", param)
    speeds = {"left": -DEFAULT_SPEED, "right": DEFAULT_SPEED, "hold": 0}
    speed = speeds[camera.pan] if camera.pan else camera.speed
    return messages.Camera(speed=speed, cut_to=camera.cut_to, rise=camera.rise)


def _lead(start: SessionStart, settings: Settings) -> float:
    lead = settings.lead_seconds if start.streaming_buffer_seconds is None else start.streaming_buffer_seconds
    if lead > settings.max_lead_seconds and start.streaming_buffer_seconds is not None:
        reason = f"streaming_buffer_seconds is {lead:g}; allowed: above 0, up to {settings.max_lead_seconds:g}"
        raise PafuError("invalid_message", reason, "streaming_buffer_seconds")
    return lead


def most_pictures(spec: ModelSpec, settings: Settings) -> int:
    """Pictures of a session that is not told when to end."""
    return int(settings.max_seconds * spec.fps)


def _pictures(start: SessionStart, spec: ModelSpec, settings: Settings) -> int:
    most = most_pictures(spec, settings)
    if start.seconds is not None:
        return _pictures_of(start, spec, most)
    if start.num_frames is not None and start.num_frames > most:
        raise PafuError("invalid_message", f"num_frames is {start.num_frames}; allowed: 1 to {most}", "num_frames")
    return most if start.num_frames is None else start.num_frames


def _budget(given: CacheParams, spec: ModelSpec, settings: Settings, path: str) -> float | None:
    """The budget in latent frames, from whichever of its three fields is set; None if none is. Raises PafuError."""
    spelt = [name for name in BUDGETS if getattr(given, name) is not None]
    if not spelt:
        return None
    if len(spelt) > 1:
        reason = f"give only one of {' and '.join(spelt)}"
        raise PafuError("invalid_message", reason, f"{path}.{spelt[1]}")
    name, amount = spelt[0], getattr(given, spelt[0])
    try:
        budget: float = BUDGETS[name](amount, spec)
        settings.check_budget(budget, spec)
    except PolicyError as error:
        raise PafuError("invalid_message", str(error), f"{path}.{name}") from None
    return budget


def _pictures_of(start: SessionStart, spec: ModelSpec, most: int) -> int:
    """Number of pictures for OpenAI's ``seconds``, a number or a numeric string. Raises PafuError."""
    try:
        pictures = round(float(start.seconds or 0) * spec.fps)
    except (ValueError, OverflowError):
        pictures = 0
    if not 1 <= pictures <= most:
        reason = f"seconds is {shown(start.seconds)}; allowed: up to {most / spec.fps:g}"
        raise PafuError("invalid_message", reason, "seconds")
    check_agree(pictures, start.num_frames)
    return pictures


def check_agree(pictures: int, num_frames: int | None) -> None:
    """Raises PafuError if ``seconds``, which are so many pictures, and ``num_frames`` differ."""
    if num_frames not in (None, pictures):
        raise PafuError("invalid_message", "seconds and num_frames differ; give only one", "num_frames")


def _cache(start: SessionStart, spec: ModelSpec, settings: Settings) -> messages.CacheChoice:
    given = start.extra_params.cache if start.extra_params and start.extra_params.cache else CacheParams()
    path = "extra_params.cache"
    budget = _budget(given, spec, settings, path)
    try:
        asked = (given.sink_latents, given.recent_latents, given.position_mode, given.kv_dtype)
        cache = settings.cache(given.policy, budget, *asked)
    except PolicyError as error:
        raise PafuError("invalid_message", str(error), path) from None
    return messages.CacheChoice.of(cache)
