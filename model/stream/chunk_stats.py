"""The figures of a chunk. They are defined here once and carried whole to the wire, metrics, traces and clients.

Each field is a field of ``stats`` on the wire, of the AsyncAPI document, of the chunk's span and of the client's type.
A field with a ``Measure`` is also a metric. This module imports no torch, because the front reads it. See "One figure
more" in docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True)
class Measure:
    """The metric of a figure, labeled with the cache policy: a counter sums over chunks, a gauge holds the newest
    value."""

    metric: str
    kind: Literal["counter", "gauge"]
    labels: tuple[tuple[str, str], ...] = ()  # additional labels and their values


def figure(description: str, measure: Measure | None = None) -> Meta:
    """The description of a figure for documents, and its metric."""
    return Meta(description=description, extra={"measure": measure})


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base class of structs of figures; fields equal to their default are omitted."""


class CameraView(Figures, frozen=True, kw_only=True):
    """Where the next chunk begins."""

    offset: Annotated[int, figure("World column of the picture's left edge, from where the session began.")]
    speed: Annotated[int, figure("Pixels per picture, + is right.")]


class KeptTokens(Figures, frozen=True, kw_only=True):
    """The tokens that a cache keeps: for each of ``latents`` (ascending) a small picture of rows x columns bytes, row
    by row."""

    rows: int
    columns: int
    latents: list[int]
    kept: Annotated[bytes, figure("Share of the layers that hold the token, 0 to 255.")]
    salience: Annotated[bytes, figure("Mean rank of its score among the kept, 0 to 255; empty without scores.")]


class ChunkStats(Figures, frozen=True, kw_only=True):
    """What a chunk cost, and what the cache holds after it."""

    seconds: Annotated[
        dict[str, float], figure("Time by stage: text, denoise, clean, decode, prune; the server adds encode, total.")
    ]
    cache_tokens: Annotated[int, figure("Tokens that the fullest layer holds.")]
    cache_bytes: Annotated[int, figure("Bytes that the cache takes on the device.")]
    cache_host_bytes: Annotated[int, figure("Bytes of host memory that hold its evicted tokens.")]
    evicted_tokens: Annotated[
        int,
        figure(
            "Tokens evicted from the layer that lost most.",
            Measure("pafu_kv_evicted_tokens_total", "counter", (("reason", "budget"),)),
        ),
    ]
    cache_policy: Annotated[str, figure("Policy in force; with cache_fell_back another than was asked for.")]
    cache_fell_back: Annotated[bool, figure("Scores were not finite, so a policy without scores took over.")]
    salience_quantiles: Annotated[
        dict[str, float], figure("Quantiles of the kept tokens' scores over all layers; empty without scores.")
    ]
    prompt: Annotated[str, figure("The words that the chunk shows.")]
    camera: CameraView
    told: Annotated[
        str, figure("The words that the model was told: the prompt, and what it leaves open, as the seed chose it.")
    ] = ""


def blank(kind: type[S], **given: Any) -> S:
    """A struct whose required fields are zero or empty unless given: for stand-ins, which then need no edit when a
    figure is added."""
    required = {field.name: field.type for field in msgspec.structs.fields(kind) if field.required}
    return kind(**{name: _zero(annotation) for name, annotation in required.items()} | given)


def _zero(annotation: Any) -> Any:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    made = get_origin(bare) or bare
    return blank(made) if issubclass(made, msgspec.Struct) else made()


def measured_in(stats: type[ChunkStats]) -> dict[str, tuple[Measure, str]]:
    """The fields that are metrics, each with its measure and description."""
    found = {}
    for field in msgspec.structs.fields(stats):
        meta = _meta_of(field.type)
        if meta is not None and (measure := (meta.extra or {}).get("measure")) is not None:
            found[field.name] = measure, meta.description or ""
    return found


def _meta_of(annotation: Any) -> Meta | None:
    return next((each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Meta)), None)
