"""Turn a request (JSON or form) into an Order that the model can generate, or an error naming the field."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from model.spec import SPECS, ModelSpec
from server.access.bounded_json import Bounds, beside_the_loop, read_object
from server.config import Settings
from server.errors import PafuError, nearest, shown
from server.ipc import messages
from server.ipc.messages import Interact
from server.jobs import form
from server.jobs.chunks import chunks_of
from server.jobs.job import Carried, Order, carried_pictures
from server.live import client_messages as protocol
from server.live import foreign

DEFAULT_SECONDS = 4.0  # OpenAI's
JSON = "application/json"
LOOKED_AT = 1024  # bytes of a body, for whether it looks like JSON
TYPES = tuple(f"Content-Type: {kind}" for kind in (JSON, *form.MEDIA_TYPES))
BODY = Bounds(large=dict.fromkeys(protocol.PICTURE_FIELDS, 2**30), too_large="body_too_large")  # the guard limits all
AskedKind = TypeVar("AskedKind", bound="Asked")
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class Asked(BaseModel):
    """Fields common to all requests. Forms have only text, so numbers may be strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any) -> Any:
        """Reject booleans, which pydantic would convert to 1 and 0."""
        if isinstance(value, bool):
            raise PydanticCustomError("boolean", "true and false are not allowed here")
        return value


class VideoRequest(Asked):
    """POST /v1/videos: OpenAI's fields and ours. Omitted fields take the model's defaults."""

    model: str | None = None
    seconds: float | None = Field(default=None, gt=0, le=1e6)
    size: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=protocol.MAX_SEED)
    num_inference_steps: int | None = None
    input_reference: Any = None  # first picture: a file, a data URL, or an object that holds one
    image_reference: Any = None  # the same, under another server's field name
    extra_params: dict[str, Any] | None = None
    interactions: list[protocol.Interaction] = Field(
        default=[],
        max_length=protocol.MAX_KNOWN_CHANGES,
        description="changes as in session.start, each with its at_chunk: same seed and changes, same pictures",
    )


class RemixRequest(Asked):
    """POST /v1/videos/{id}/remix."""


class SourceVideo(BaseModel):
    """The video to extend: an object with its id, or its file (see server.jobs.form)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(max_length=64)


class ExtendRequest(Asked):
    """POST /v1/videos/extensions; ``seconds`` is the length to add."""

    video: SourceVideo
    seconds: float = Field(default=DEFAULT_SECONDS, gt=0, le=1e6)


async def read_fields(request: Request) -> dict[str, Any]:
    """The fields of a JSON object or a form. Raises PafuError."""
    content_type = request.headers.get("content-type", "application/json")
    kind = content_type.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise PafuError(
            "unsupported_media_type", f"Content-Encoding {encoding[:32]!r} is not supported: send the body uncompressed"
        )
    body = await request.body()
    if kind != JSON and body[:LOOKED_AT].lstrip().startswith(b"{"):
        raise PafuError(
            "unsupported_media_type", f"the body looks like JSON, but its type is {kind[:64]!r}: send {TYPES[0]}"
        )
    if kind not in (JSON, *form.MEDIA_TYPES):
        raise PafuError("unsupported_media_type", f"type {kind[:64]!r} is not supported: send {' or '.join(TYPES)}")
    if kind == JSON:
        fields = await beside_the_loop(len(body), read_object, body, "the body", BODY)
    else:
        fields = await form.read_form(content_type, body)
    extra = fields.pop("extra_body", None)
    if extra is not None and not isinstance(extra, dict):
        raise PafuError("invalid_message", "extra_body must be an object", "extra_body")
    return {**fields, **(extra or {})}


def parse(kind: type[AskedKind], fields: dict[str, Any]) -> AskedKind:
    """Validate the fields of a request. Raises PafuError with the field at fault."""
    asked = foreign.taken(foreign.unfolded(fields))
    if isinstance(extra := asked.get("extra_params"), dict):
        asked["extra_params"] = foreign.taken(extra, "extra_params.")
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        raise _explain(kind, error) from None


def new_order(asked: VideoRequest, spec: ModelSpec, settings: Settings) -> Order:
    """The order for a new video. Raises PafuError for what this server or its model cannot do."""
    protocol.check_steps(asked.num_inference_steps, spec)
    width, height = _size(asked, spec)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    start = {
        "type": "session.start",
        "model": asked.model,
        "prompt": asked.prompt,
        "width": width,
        "height": height,
        "fps": asked.fps,
        "seed": seed,
        "extra_params": asked.extra_params,
    }
    try:
        session = protocol.SessionStart.model_validate(start)
    except ValidationError as error:
        raise _explain(protocol.SessionStart, error) from None
    checked = protocol.check_start(session, spec, settings)
    pictures = _pictures(asked, spec, settings)
    protocol.check_held(checked.cache, pictures, spec, settings)
    order = Order(
        model=spec.name,
        prompt=checked.prompt,
        seed=seed,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        pictures=pictures,
        cache=checked.cache,
        image=_image(asked, spec),
    )
    return msgspec.structs.replace(order, changes=_changes(asked, chunks_of(order, spec) - 1, spec))


def _changes(asked: VideoRequest, last: int, spec: ModelSpec) -> list[Interact]:
    changes = [
        protocol.change_of(interaction, "", f"evt_start_{place}", spec)
        for place, interaction in enumerate(asked.interactions)
    ]
    for place, change in enumerate(changes):
        if change.at_chunk > last:
            reason = f"at_chunk {change.at_chunk} is after the video's last chunk, {last}"
            raise PafuError("invalid_message", reason, f"interactions.{place}.at_chunk")
    return changes


def _image(asked: VideoRequest, spec: ModelSpec) -> bytes:
    for name in ("input_reference", "image_reference"):
        if (reference := getattr(asked, name)) is not None:
            return protocol.check_image(reference, spec, name)
    return b""


# Properties that two models must share so that one can continue from the other's latents.
LATENTS = ("video_codec", "latent_channels", "chunk_latents", "spatial_stride", "temporal_stride", "fps")


def unlike(source: Order, spec: ModelSpec) -> str | None:
    """Why this model cannot use the source's latents; None if it can."""
    theirs, ours = SPECS.get(source.model), spec.name
    there, here = f"{source.width}x{source.height}", f"{spec.width}x{spec.height}"
    if source.model != ours and (theirs is None or not (theirs.public and spec.public)):
        return f"the latents of {source.model!r} differ from those of {ours!r}"
    for name in LATENTS:
        if (its := getattr(theirs, name)) != (own := getattr(spec, name)):
            return f"{name} is {its} for {source.model!r} but {own} for {ours!r}"
    return None if there == here else f"the pictures of {source.model!r} are {there}, those of {ours!r} are {here}"


def longer_order(source: Order, asked: ExtendRequest, chunks: int, spec: ModelSpec, settings: Settings) -> Order:
    """The order for an extension that continues from the latents of the source's ``chunks``. Raises PafuError.

    If another model made them, it gets this server's default cache.
    """
    cache = source.cache if source.model == spec.name else messages.CacheChoice.of(settings.cache())
    return _longer(
        msgspec.structs.replace(source, model=spec.name, cache=cache, given_chunks=chunks), asked, spec, settings
    )


def carrying_order(source: Order, asked: ExtendRequest, why: str, spec: ModelSpec, settings: Settings) -> Order:
    """The order for an extension that shows the source's pictures, then starts with the last of them. Raises PafuError.

    ``why``: the result of ``unlike``.
    """
    said = f"the extension starts with the last picture and an empty cache: {why}"
    carried = Carried(pictures=carried_pictures(source.pictures, source.fps, spec.fps), said=said)
    order = Order(
        model=spec.name,
        prompt=asked.prompt,
        seed=source.seed,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        pictures=carried.pictures,
        cache=messages.CacheChoice.of(settings.cache()),
        carried=carried,
    )
    return _longer(order, asked, spec, settings)


def _longer(order: Order, asked: ExtendRequest, spec: ModelSpec, settings: Settings) -> Order:
    pictures = order.pictures + max(1, round(asked.seconds * order.fps))
    check_length(pictures, spec, settings, "seconds")
    protocol.check_held(order.cache, pictures - order.earlier, spec, settings, "seconds")
    prompt = protocol.check_prompt(asked.prompt, spec)
    return msgspec.structs.replace(order, prompt=prompt, pictures=pictures, changes=[])


def remixed_order(source: Order, asked: RemixRequest, spec: ModelSpec) -> Order:
    """The order for a remix: the source's noise and camera moves with a new prompt. Raises PafuError.

    The same noise keeps what the prompt does not determine similar.
    """
    moves = [msgspec.structs.replace(change, prompt=None) for change in source.changes if change.camera is not None]
    prompt = protocol.check_prompt(asked.prompt, spec)
    return msgspec.structs.replace(source, prompt=prompt, given_chunks=0, changes=moves)


def check_length(pictures: int, spec: ModelSpec, settings: Settings, param: str) -> None:
    """Raises PafuError if the video would be longer than ``max_job_seconds``."""
    most = int(settings.max_job_seconds * spec.fps)
    if pictures > most:
        reason = f"the video would have {pictures} pictures; the maximum is {most} ({settings.max_job_seconds:g} s)"
        raise PafuError("invalid_message", reason, param)


def digest(kind: str, fields: dict[str, Any]) -> str:
    """A digest of the request, to compare requests with the same idempotency key."""
    text = json.dumps([kind, fields], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _size(asked: VideoRequest, spec: ModelSpec) -> tuple[int | None, int | None]:
    if asked.size is None:
        return asked.width, asked.height
    found = SIZE.fullmatch(asked.size)
    if not found:
        reason = f"size {asked.size[:32]!r} is not WIDTHxHEIGHT; {spec.name} makes {spec.width}x{spec.height}"
        raise PafuError("invalid_message", reason, "size")
    width, height = int(found[1]), int(found[2])
    if (asked.width or width, asked.height or height) != (width, height):
        raise PafuError("invalid_message", f"size {asked.size} conflicts with width and height; give only one", "size")
    if (width, height) != (spec.width, spec.height):
        reason = f"size {asked.size} is not offered; {spec.name} makes {spec.width}x{spec.height}"
        raise PafuError("unsupported", reason, "size")
    return width, height


def _pictures(asked: VideoRequest, spec: ModelSpec, settings: Settings) -> int:
    if asked.seconds is not None:
        protocol.check_agree(round(asked.seconds * spec.fps), asked.num_frames)
    if asked.num_frames is not None:
        check_length(asked.num_frames, spec, settings, "num_frames")
        return asked.num_frames
    pictures = max(1, round((asked.seconds or DEFAULT_SECONDS) * spec.fps))
    check_length(pictures, spec, settings, "seconds")
    return pictures


def _explain(kind: type[BaseModel], error: ValidationError) -> PafuError:
    first = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:128]
    if first["type"] == "model_type" and first["loc"][0] == "extra_params":
        allowed = ", ".join(protocol.fields_at(kind, first["loc"]))
        reason = f"{param} must be an object with fields of {allowed}; got {shown(first['input'])}"
        return PafuError("invalid_message", reason, param)
    if first["type"] in ("model_type", "model_attributes_type"):
        allowed = 'give {"id": "video_..."} or a video file downloaded from this server'
        return PafuError(
            "invalid_message", f"{param}: {shown(first['input'])} is not a video of this server; {allowed}", param
        )
    if first["type"] == "missing":
        return PafuError("missing_field", f"the request needs the field {param!r}", param)
    if first["type"] == "extra_forbidden":
        hint = nearest(str(first["loc"][-1])[:64], protocol.fields_at(kind, first["loc"][:-1]))
        return PafuError("unknown_field", f"the request has no field {param!r}; {hint}", param)
    text = f"{param or 'the request'}: {first['msg']}; got {shown(first['input'])}"
    return PafuError("invalid_message", text, param or None)
