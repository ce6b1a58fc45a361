"""The live protocol as a viewer speaks it: parsing is strict, and an error names the field and what is allowed.

The shape is vLLM-Omni's ``WS /v1/realtime/video``; fields that it does not have are optional. What depends on the
model (sizes, prompt length, camera) is checked by ``check_start`` and ``check_event`` against its ModelSpec.
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
from server.errors import PafuError, nearest
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

BUDGETS = {  # the three ways to say it -> in latent frames
    "budget_latents": lambda amount, spec: amount,
    "budget_tokens": lambda amount, spec: amount / spec.tokens_per_latent,
    "window_latents": budget_of_window,
}

EventId = Annotated[str, Field(min_length=1, max_length=128)]
SessionId = Annotated[str, Field(min_length=1, max_length=64)]


class Wire(BaseModel):
    """No silent conversion ("12" is no number, true is no integer), no unknown field, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CacheParams(Wire):
    """The cache of one session; what is left out is the server's default. All in latent frames, fractions allowed."""

    policy: str | None = None
    budget_latents: float | None = Field(default=None, description="one token's share, up to what the server allows")
    budget_tokens: int | None = Field(default=None, ge=-(2**24), le=2**24, description="per layer; instead of latents")
    window_latents: float | None = Field(
        default=None, gt=0, le=4096, description="instead of a budget, as public configurations count: with the chunk"
    )
    sink_latents: float | None = Field(default=None, ge=0, le=4096)
    recent_latents: float | None = Field(default=None, ge=0, le=4096)
    position_mode: PositionMode | None = Field(default=None, description="default: the model's own")
    kv_dtype: Literal["auto", "bf16", "int8", "int4"] | None = Field(default=None, description="how tokens are kept")


class ExtraParams(Wire):
    cache: CacheParams | None = None


class CameraVelocity(Wire):
    """vLLM-Omni's camera: metres a picture to the right, up, forward, and a rotation as a quaternion (x, y, z, w)."""

    translation: list[float] = Field(min_length=3, max_length=3)
    rotation: list[float] | None = Field(default=None, min_length=4, max_length=4)


class CameraEvent(Wire):
    """``speed`` in pixels per picture (+ is right), or a direction; ``cut_to`` in screens from the start; ``rise`` in
    pixels per picture (+ is up), for models whose camera rises.

    ``mode`` and ``data`` are vLLM-Omni's way to say the same.
    """

    mode: Literal["velocity"] | None = None
    data: CameraVelocity | None = None

    speed: int | None = Field(default=None, ge=-MAX_SPEED, le=MAX_SPEED, multiple_of=SPEED_STEP)
    pan: Literal["left", "right", "hold"] | None = None
    cut_to: float | None = Field(default=None, ge=-MAX_PLACE, le=MAX_PLACE)
    rise: int | None = Field(default=None, ge=-MAX_RISE, le=MAX_RISE)


class MultiModalData(Wire):
    camera: CameraEvent | None = None


class Event(Wire):
    prompt: str | None = None
    multi_modal_data: MultiModalData | None = None


class Interaction(Wire):
    """``at_chunk``: the chunk that shows it first; left out, or a chunk that is made already, means the next one."""

    event_id: EventId | None = None
    event: Event
    transition_chunks: int | None = Field(default=None, ge=0, le=MAX_TRANSITION_CHUNKS)
    at_chunk: int | None = Field(default=None, ge=0, le=MAX_CHUNK)


class SessionStart(Wire):
    """Sizes and rate, where given, must be the model's own; ``num_frames`` left out means without end.

    ``memory`` asks for the kept tokens in every chunk's statistics (the page's memory view). ``interactions`` are
    changes that are known from the beginning, each at its ``at_chunk``: same seed, same changes, same pictures.
    """

    type: Literal["session.start"]
    model: str | None = None
    prompt: str
    format: str = "m4s"
    width: int | None = None
    height: int | None = None
    fps: int | None = None
    num_frames: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    extra_params: ExtraParams | None = None
    image: Any = Field(default=None, description="picture that the video begins with, as a data URL")
    image_reference: Any = Field(default=None, description="the same under another server's name")
    size: str | None = None
    seconds: float | str | None = None
    num_inference_steps: int | None = None
    streaming_buffer_seconds: float | None = Field(default=None, gt=0)
    memory: bool = False
    interactions: list[Interaction] = Field(default=[], max_length=MAX_KNOWN_CHANGES)


class SessionInteraction(Wire):
    type: Literal["session.interaction"]
    interaction: Interaction


class SessionPlayback(Wire):
    type: Literal["session.playback"]
    position_seconds: float = Field(ge=0, le=MAX_MEDIA_SECONDS)


class SessionPing(Wire):
    type: Literal["session.ping"]


class SessionStop(Wire):
    type: Literal["session.stop"]


class SessionPause(Wire):
    type: Literal["session.pause"]


class SessionResume(Wire):
    """As the first message: resume a session on this connection. Later, without fields: go on after session.pause."""

    type: Literal["session.resume"]
    session_id: SessionId | None = None
    token: str | None = Field(default=None, max_length=256)
    last_chunk_index: int | None = Field(default=None, ge=-1, le=2**53)
    format: str | None = None


class SessionWatch(Wire):
    """Watch somebody's session; the first message of a connection."""

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


# These may be large in any message.
PICTURE_FIELDS = ("image", "image_reference", "input_reference", "image_url")
CONTROL = Bounds()


def first_bounds(settings: Settings) -> Bounds:
    """For a connection's first message: kilobytes, and a picture."""
    return Bounds(large=dict.fromkeys(PICTURE_FIELDS, settings.max_start_bytes))


def control_bounds(settings: Settings) -> Bounds:
    """For every other message."""
    return Bounds(size=settings.max_control_bytes)


def parse(text: str, bounds: Bounds = CONTROL) -> ClientMessage:
    """One message of a viewer. Raises PafuError with the field at fault in ``param``."""
    data = read_object(text.encode("utf-8", "surrogatepass"), "the message", bounds)
    kind = data.get("type")
    if kind is None:
        raise PafuError("missing_field", f"a message needs a type; known: {', '.join(CLIENT_MESSAGES)}", "type")
    if not isinstance(kind, str) or kind not in CLIENT_MESSAGES:
        hint = nearest(str(kind)[:64], list(CLIENT_MESSAGES))
        if any(word in str(kind) for word in ("prompt", "update", "camera", "control")):
            hint = "new words and the camera come with 'session.interaction'"
        raise PafuError("unknown_type", f"unknown message type {str(kind)[:64]!r}; {hint}", "type")
    if kind == "session.start":
        data = without_foreign(data)
    try:
        return CLIENT_MESSAGES[kind].model_validate(data)
    except ValidationError as error:
        raise _explain(kind, error) from None


def without_foreign(start: dict[str, Any]) -> dict[str, Any]:
    """A start without what asks for nothing here. Raises PafuError unsupported."""
    start = foreign.taken(start)
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
    shown = repr(first["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if first["type"] == "model_type":
        allowed = ", ".join(fields_at(CLIENT_MESSAGES[kind], first["loc"]))
        return PafuError("invalid_message", f"{param} must be an object with fields of {allowed}; got {shown}", param)
    return PafuError("invalid_message", f"{param}: {first['msg']}; got {shown}", param)


def fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that stands at ``path`` inside this one."""
    for part in path:
        if isinstance(part, int):  # an element of the list
            continue
        annotation = model.model_fields[str(part)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(t for t in options if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)


# ---- what depends on the model


def check_start(start: SessionStart, spec: ModelSpec, settings: Settings) -> messages.Open:
    """The order for the worker (without a session id). Raises PafuError."""
    if start.model is not None and start.model != spec.name:
        reason = "is known but not loaded" if start.model in SPECS else "is unknown"
        raise PafuError("unknown_model", f"model {start.model[:64]!r} {reason}; this server has {spec.name!r}", "model")
    check_format(start.format)
    for field in ("width", "height", "fps"):
        given, own = getattr(start, field), getattr(spec, field)
        if given is not None and given != own:
            reason = f"{field} {given} is not offered; {spec.name} makes {spec.width}x{spec.height} at {spec.fps} fps"
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
    """The picture that a video begins with, as PNG of the model's size. Raises PafuError."""
    try:
        return picture.fitted(picture.data_of(reference), spec.width, spec.height)
    except picture.PictureError as error:
        raise PafuError("invalid_message", str(error), param) from None


def check_size(size: str | None, spec: ModelSpec) -> None:
    """Raises PafuError for another size than the model's own."""
    own = f"{spec.width}x{spec.height}"
    if size is None or size == own:
        return
    if not SIZE.fullmatch(size):
        raise PafuError("invalid_message", f"size {size[:32]!r} is not WIDTHxHEIGHT; {spec.name} makes {own}", "size")
    raise PafuError("unsupported", f"size {size} is not offered; {spec.name} makes {own}", "size")


def check_steps(steps: int | None, spec: ModelSpec) -> None:
    """Raises PafuError for another number of steps than the model's own."""
    own = len(spec.denoising_steps)
    if steps not in (None, own):
        raise PafuError("unsupported", f"{spec.name} makes {own} steps, always", "num_inference_steps")


def check_held(
    cache: messages.CacheChoice,
    pictures: int,
    spec: ModelSpec,
    settings: Settings,
    param: str | None = "extra_params.cache",
) -> None:
    """Raises PafuError for a video whose tokens policy ``full``, which never evicts, could not hold to the end."""
    chunks = 1 + math.ceil(max(0, pictures - spec.pictures_in_chunk(0)) / spec.pictures_in_chunk(1))
    if cache.policy == "full" and chunks * spec.tokens_per_chunk > cache.config.budget_tokens(spec.tokens_per_latent):
        raise PafuError(
            "invalid_message",
            f"policy 'full' never evicts: a video of {pictures} pictures needs {chunks * spec.chunk_latents} latent "
            f"frames, its budget is {cache.budget_latents:g}; raise the budget (up to {settings.cache_max_latents:g}), "
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
    """Session, token and last chunk of a viewer who resumes. Raises PafuError for a missing field."""
    for field in ("session_id", "token", "last_chunk_index"):
        if getattr(message, field) is None:
            raise PafuError("missing_field", f"session.resume needs the field {field!r} to take up a session", field)
    assert message.session_id is not None and message.token is not None and message.last_chunk_index is not None
    return message.session_id, message.token, message.last_chunk_index


def check_prompt(prompt: str, spec: ModelSpec, param: str = "prompt") -> str:
    """The prompt, stripped. Raises PafuError when it is empty or too long."""
    text = prompt.strip()
    if not text:
        raise PafuError("invalid_message", f"the prompt is empty; write 1 to {spec.max_prompt_chars} characters", param)
    if len(text) > spec.max_prompt_chars:
        reason = f"the prompt has {len(text)} characters; {spec.name} takes at most {spec.max_prompt_chars}"
        raise PafuError("invalid_message", reason, param)
    if any(0xD800 <= ord(c) <= 0xDFFF or c == "\0" for c in text):
        raise PafuError("invalid_message", "the prompt holds characters that are no text", param)
    return text


def check_event(interaction: Interaction, spec: ModelSpec) -> tuple[str | None, messages.Camera | None]:
    """An interaction's new prompt and camera order. Raises PafuError when it asks for nothing."""
    event = interaction.event
    path = "interaction.event"
    camera = event.multi_modal_data.camera if event.multi_modal_data else None
    if event.prompt is None and camera is None:
        raise PafuError("invalid_message", "the event asks for nothing; give a prompt, a camera, or both", path)
    if camera is not None and not spec.camera:
        raise PafuError("unsupported", f"{spec.name} has no camera control", f"{path}.multi_modal_data.camera")
    if camera is not None and camera.rise and spec.camera and not spec.camera.rises:
        raise PafuError("unsupported", f"{spec.name}'s camera only pans", f"{path}.multi_modal_data.camera.rise")
    prompt = None if event.prompt is None else check_prompt(event.prompt, spec, f"{path}.prompt")
    return prompt, None if camera is None else _camera(camera, f"{path}.multi_modal_data.camera")


def change_of(interaction: Interaction, session: str, unnamed: str, spec: ModelSpec) -> messages.Interact:
    """The change for the worker; ``unnamed`` is the id of one without. Raises PafuError."""
    prompt, camera = check_event(interaction, spec)
    return messages.Interact(
        session=session,
        event_id=interaction.event_id or unnamed,
        prompt=prompt,
        camera=camera,
        chunks=interaction.transition_chunks or 1,
        at_chunk=interaction.at_chunk or 0,
    )


VELOCITY = 0.05  # of vLLM-Omni's clients: our usual speed


def _velocity(data: CameraVelocity, param: str) -> int:
    """The speed to the right that a velocity asks for. Raises PafuError for any other movement."""
    right, *other = data.translation
    if any(other) or data.rotation not in (None, [0, 0, 0, 1]):
        reason = "the camera moves to the right and left only: translation [x, 0, 0], rotation [0, 0, 0, 1]"
        raise PafuError("unsupported", reason, f"{param}.data")
    steps = round(right / VELOCITY * DEFAULT_SPEED / SPEED_STEP) or int(math.copysign(bool(right), right))
    return max(-MAX_SPEED, min(MAX_SPEED, steps * SPEED_STEP))


def _camera(camera: CameraEvent, param: str) -> messages.Camera:
    asked = any(each is not None for each in (camera.speed, camera.pan, camera.cut_to, camera.rise))
    if camera.data is not None:
        if asked:
            raise PafuError("invalid_message", "give either data or speed, pan, cut_to and rise", param)
        return messages.Camera(speed=_velocity(camera.data, param), cut_to=None)
    if camera.speed is not None and camera.pan is not None:
        raise PafuError("invalid_message", "give either speed or pan, not both", param)
    if not asked:
        raise PafuError("invalid_message", "the camera needs one of speed, pan, cut_to, rise", param)
    speeds = {"left": -DEFAULT_SPEED, "right": DEFAULT_SPEED, "hold": 0}
    speed = speeds[camera.pan] if camera.pan else camera.speed
    return messages.Camera(speed=speed, cut_to=camera.cut_to, rise=camera.rise)


def _lead(start: SessionStart, settings: Settings) -> float:
    lead = settings.lead_seconds if start.streaming_buffer_seconds is None else start.streaming_buffer_seconds
    if lead > settings.max_lead_seconds and start.streaming_buffer_seconds is not None:
        reason = f"streaming_buffer_seconds is {lead:g}; allowed is more than 0 and up to {settings.max_lead_seconds:g}"
        raise PafuError("invalid_message", reason, "streaming_buffer_seconds")
    return lead


def _pictures(start: SessionStart, spec: ModelSpec, settings: Settings) -> int:
    most = int(settings.max_seconds * spec.fps)
    if start.seconds is not None:
        return _pictures_of(start, spec, most)
    if start.num_frames is not None and start.num_frames > most:
        raise PafuError("invalid_message", f"num_frames is {start.num_frames}; allowed is 1 to {most}", "num_frames")
    return most if start.num_frames is None else start.num_frames


def _budget(given: CacheParams, spec: ModelSpec, settings: Settings, path: str) -> float | None:
    """In latent frames, of whichever of its three spellings was chosen. Raises PafuError."""
    spelt = [name for name in BUDGETS if getattr(given, name) is not None]
    if not spelt:
        return None
    if len(spelt) > 1:
        reason = f"give the budget once: {' and '.join(spelt)} say the same in two ways"
        raise PafuError("invalid_message", reason, f"{path}.{spelt[1]}")
    name, amount = spelt[0], getattr(given, spelt[0])
    try:
        budget: float = BUDGETS[name](amount, spec)
        settings.check_budget(budget, spec)
    except PolicyError as error:
        raise PafuError("invalid_message", str(error), f"{path}.{name}") from None
    return budget


def _pictures_of(start: SessionStart, spec: ModelSpec, most: int) -> int:
    """``seconds`` as OpenAI has them, a number or its text."""
    if start.num_frames is not None:
        raise PafuError("invalid_message", "give either seconds or num_frames, not both", "num_frames")
    try:
        pictures = round(float(start.seconds or 0) * spec.fps)
    except (ValueError, OverflowError):
        pictures = 0
    if not 1 <= pictures <= most:
        reason = f"seconds is {start.seconds!r:.40}; allowed is up to {most / spec.fps:g}"
        raise PafuError("invalid_message", reason, "seconds")
    return pictures


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
