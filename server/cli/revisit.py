"""Pan away and return, or let fog come and go, with several cache policies; show the place before and after side by
side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from model.camera import DEFAULT_SPEED, CameraControl, CameraState, advance
from model.spec import SPECS, ModelSpec
from model.words.vocabularies import warnings, words_of
from server.cli.console import console, note
from server.cli.generate import load
from server.config import Settings
from server.ipc.messages import CacheChoice
from server.live.client_messages import check_prompt
from server.worker.generator import Stream

LOOK_CHUNKS = 3  # chunks at the place, before and after
UNNAMED = "the landscape"  # names nothing
GAP, HEAD = 8, 22  # pixels between pictures, and above each for its caption
PAPER, INK = (250, 246, 238), (40, 40, 48)


@dataclass(frozen=True)
class Trip:
    """One control and one prompt per chunk, and the chunks whose last picture is shown: before, hidden and back.
    ``hidden``: what a picture of the second kind shows."""

    controls: tuple[CameraControl, ...]
    prompts: tuple[str, ...]
    hidden: str
    before: int
    away: int
    after: int


@dataclass(frozen=True)
class Visit:
    """One policy's result: uint8 pictures (H, W, 3) and the size of its cache, on the device and in host memory."""

    policy: str
    before: np.ndarray
    away: np.ndarray
    after: np.ndarray
    cache_bytes: int
    host_bytes: int
    hidden: str

    @property
    def likeness(self) -> float:
        """PSNR in dB between the place before and after; infinite if they are equal."""
        error = float(np.mean((self.before.astype(np.float64) - self.after) ** 2))
        return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def chunk_seconds(spec: ModelSpec) -> float:
    """How long a chunk plays."""
    return spec.chunk_latents * spec.temporal_stride / spec.fps


def fog(spec: ModelSpec, prompt: str, seconds: float) -> Trip:
    """Look, let fog hide everything for ``seconds``, look again; after the start nothing names the things. Raises
    ValueError for a model that does not know fog."""
    words = words_of(spec)
    if words is None or "fog" not in words.grammar.weathers:
        raise ValueError(f"{spec.name} does not know fog: let the camera leave instead (without --fog)")
    hidden = max(1, round(seconds / chunk_seconds(spec)))
    prompts = (prompt,) * LOOK_CHUNKS + (UNNAMED + " in fog",) * hidden + (UNNAMED,) * LOOK_CHUNKS
    still = (CameraControl(speed=0),) * len(prompts)
    return Trip(still, prompts, "in fog", LOOK_CHUNKS - 1, LOOK_CHUNKS + hidden - 1, len(prompts) - 1)


def plan(spec: ModelSpec, prompt: str, away_seconds: float) -> Trip:
    """Look, pan right for half of ``away_seconds``, pan back the same way, look again."""
    out = max(2, round(away_seconds / 2 / chunk_seconds(spec)))
    look, away = [CameraControl(speed=0)] * LOOK_CHUNKS, [CameraControl(speed=DEFAULT_SPEED)] * out
    back = _way_back(spec, [*look, *away])
    controls = (*look, *away, *back, *look)
    prompts = (prompt,) * len(controls)
    return Trip(controls, prompts, "far away", LOOK_CHUNKS - 1, LOOK_CHUNKS + out - 1, len(controls) - 1)


def _way_back(spec: ModelSpec, way_there: Sequence[CameraControl]) -> list[CameraControl]:
    """Controls that return the camera to offset 0 and stop it there."""
    state = CameraState()
    for control in way_there:
        state, *_ = advance(state.steered(control, spec.view_width), spec.chunk_latents, spec.temporal_stride)
    back: list[CameraControl] = []
    while state.offset or state.speed:
        speed = next(speed for speed in (-DEFAULT_SPEED, -DEFAULT_SPEED // 2, 0) if _stops_in_time(spec, state, speed))
        back.append(CameraControl(speed=speed))
        if not speed and not state.speed:  # no speed stops exactly there: cut for the last pixels
            back[-1] = CameraControl(speed=0, cut_to=0.0)
        state, *_ = advance(state.steered(back[-1], spec.view_width), spec.chunk_latents, spec.temporal_stride)
    return back


def _stops_in_time(spec: ModelSpec, state: CameraState, speed: int) -> bool:
    """Whether the camera can still stop before passing offset 0 after one chunk at ``speed``."""
    for control in (CameraControl(speed=speed), CameraControl(speed=0)):
        state, *_ = advance(state.steered(control, spec.view_width), spec.chunk_latents, spec.temporal_stride)
    return state.offset >= 0


def visits(
    settings: Settings,
    prompt: str,
    policies: Sequence[str],
    budget: float | None,
    away: float,
    seed: int,
    in_fog: bool = False,
) -> Iterator[Visit]:
    """Yield a visit per policy, with progress bars. ``budget`` is in latent frames, ``away`` in seconds.
    ``in_fog``: the camera stays, and fog hides the place.

    Raises PafuError, GenerateError or ValueError, with a message for the user.
    """
    spec = settings.spec
    if not spec.camera:
        able = ", ".join(other.name for other in SPECS.values() if other.camera)
        raise ValueError(f"{spec.name} has no camera control; models with one: {able}")
    prompt = check_prompt(prompt, spec)
    trip = fog(spec, prompt, away) if in_fog else plan(spec, prompt, away)
    for told in warnings(prompt, spec):
        note(told)
    choices = [CacheChoice.of(settings.cache(policy, budget)) for policy in policies]
    with console.status(f"loading {spec.name} ..."):
        generator = load(settings, console)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for choice in choices:
            stream = generator.open(prompt, seed, choice)
            yield walk(stream, trip, choice.policy, progress)


def walk(stream: Stream, trip: Trip, policy: str, progress: Progress) -> Visit:
    """Run the trip on a new stream."""
    shown: dict[int, np.ndarray] = {}
    cache_bytes = host_bytes = 0
    for index, control in enumerate(progress.track(trip.controls, description=policy)):
        stream.set_prompt(trip.prompts[index])
        stream.set_camera(control)
        chunk = stream.decode(stream.next_latents())
        cache_bytes, host_bytes = chunk.stats.cache_bytes, chunk.stats.cache_host_bytes
        if index in (trip.before, trip.away, trip.after):
            shown[index] = chunk.pictures[-1]
    pictures = (shown[trip.before], shown[trip.away], shown[trip.after])
    return Visit(policy, *pictures, cache_bytes, host_bytes, trip.hidden)


def save_rows(visits: Sequence[Visit], file: IO[bytes]) -> None:
    """Write one PNG with a row of three pictures per visit."""
    height, width = visits[0].before.shape[:2]
    font = ImageFont.load_default(14)
    sheet = Image.new("RGB", (3 * (width + GAP) + GAP, len(visits) * (height + HEAD + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, visit in enumerate(visits):
        top = GAP + row * (height + HEAD + GAP)
        captions = (f"{visit.policy}: before", visit.hidden, f"back again ({visit.likeness:.1f} dB)")
        for column, (picture, caption) in enumerate(
            zip((visit.before, visit.away, visit.after), captions, strict=True)
        ):
            left = GAP + column * (width + GAP)
            draw.text((left, top + 2), caption, fill=INK, font=font)
            sheet.paste(Image.fromarray(picture), (left, top + HEAD))
    sheet.save(file, format="PNG")
