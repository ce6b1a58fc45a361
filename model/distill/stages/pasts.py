"""Clips whose pasts are not the truth: what a student drew itself, repainted things, and fog that hides everything.

A student that only ever sees true pasts takes its own small errors for the truth: the cap of a mill goes through all
hues while it is in view (docs/log.md). Here the first chunks of a clip are true, the student draws the others, and it
must still predict the true ones. It can: what it draws was in view in the true chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from cache.config import CacheConfig
from model.camera import CameraControl, follow
from model.codec.vae import StreamingVAE, from_pictures
from model.distill.data.captions import GROUND_PHRASES, LIGHT_PHRASES, MOST_NAMED, in_view, landmark_phrase
from model.distill.data.clips import random_pace, random_tour
from model.distill.data.dataset import CHUNKS, clip_tensors, told_tensors
from model.distill.data.holdout import reserved
from model.distill.data.script import Script
from model.distill.data.world import (
    CHUNK_LATENTS,
    CLEAR,
    FOG,
    HAS_ACCENT,
    WIDTH,
    Clip,
    Scene,
    Segment,
    random_scene,
    render_views,
)
from model.distill.training.rollout import Rollout
from model.spec import PAFU_MINI
from model.weights import LoadedModel
from model.words.text import phrase_ids
from model.words.vocabulary import COLOURS, LIGHTS

PAST_SEED = 8011
SHARD, SIDE_BY_SIDE = 32, 8  # clips per file; clips that are rolled out together
FOGGY = 0.5  # share of the clips in which fog comes and goes; their pasts are true
STILL = 0.65  # share of the other clips with the camera at rest; in the rest it pans away and back
REPAINTED, STRONGEST = 0.5, 0.6  # share of their pasts in which things change color on the way, and how far at most
SILENT = 0.3  # share of the prompts in fog and after it that name nothing
DRAWN_WITH = CacheConfig.filled_in("value_novelty", 6.0, 2.0, None, most=CHUNK_LATENTS)


@dataclass(frozen=True)
class Drawn:
    """A clip, and how many of its first chunks are true; None: all."""

    clip: Clip
    true_chunks: int | None


def build_pasts(folder: Path, model: LoadedModel, clips: int, turn: int = 0, turns: int = 1) -> None:
    """Write ``clips`` clips with their pasts into shards in ``folder``; existing shards are kept. Of several
    processes, each writes every ``turns``-th shard."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in track(range(turn, -(-clips // SHARD), turns), description=f"drawing {folder.name}"):
        path = folder / f"clips-{number:05d}.safetensors"
        if path.exists():
            continue
        rows = [row for first in range(0, SHARD, SIDE_BY_SIDE) for row in _rows(model, number * SHARD + first)]
        aside = path.with_suffix(".part")
        save_file({name: torch.stack([row[name] for row in rows]) for name in rows[0]}, aside)
        aside.replace(path)


def _rows(model: LoadedModel, first: int) -> list[dict[str, Tensor]]:
    """``SIDE_BY_SIDE`` clips as tensors, with their pasts (F, C, h, w) in half precision."""
    vae = cast(StreamingVAE, model.vae)
    numbers = range(first, first + SIDE_BY_SIDE)
    drawn = [drawn_clip(np.random.default_rng((PAST_SEED, number))) for number in numbers]
    rows = [
        clip_tensors(each.clip, vae, told_tensors(each.clip, Script.of_clip(each.clip, model.spec).prompts))
        for each in drawn
    ]
    own = [at for at, each in enumerate(drawn) if each.true_chunks is not None]
    rolled = _rolled_out(model, [drawn[at] for at in own], [rows[at]["latents"] for at in own], first)
    pasts = dict(zip(own, rolled, strict=True))
    for at, row in enumerate(rows):
        rng = np.random.default_rng((PAST_SEED, numbers[at], 1))
        row["past"] = (
            _repainted(rng, drawn[at], row["latents"], pasts[at], vae) if at in pasts else row["latents"]
        ).half()
    return rows


def _rolled_out(model: LoadedModel, drawn: Sequence[Drawn], truth: Sequence[Tensor], seed: int) -> list[Tensor]:
    """What the student draws of the clips after their true chunks, (F, C, h, w) float32 each."""
    if not drawn:
        return []
    scripts = [Script.of_clip(each.clip, model.spec) for each in drawn]
    rollout = Rollout(model, scripts, [PAST_SEED + seed + at for at in range(len(drawn))], DRAWN_WITH)
    whole = torch.stack([latents.float() for latents in truth])
    chunks = []
    for chunk in range(CHUNKS):
        here = slice(chunk * CHUNK_LATENTS, (chunk + 1) * CHUNK_LATENTS)
        told = torch.tensor([chunk < cast(int, each.true_chunks) for each in drawn])[:, None, None, None, None]
        latents = torch.where(told, whole[:, here], rollout.draw())
        rollout.commit(latents)
        chunks.append(latents)
    return list(torch.cat(chunks, 1))


def _repainted(rng: np.random.Generator, drawn: Drawn, truth: Tensor, past: Tensor, vae: StreamingVAE) -> Tensor:
    """The past; in some, things go slowly over to other colors after the true chunks."""
    if rng.random() > REPAINTED:
        return past
    others = replace(drawn.clip, scene=_in_other_colours(rng, drawn.clip.scene))
    true = cast(int, drawn.true_chunks)
    ramp = torch.zeros(CHUNKS)
    ramp[true:] = torch.linspace(0, float(rng.uniform(0, STRONGEST)), CHUNKS - true + 1)[1:]
    shift = encoded(others, vae) - truth.float()
    return past + ramp.repeat_interleave(CHUNK_LATENTS)[:, None, None, None] * shift


def encoded(clip: Clip, vae: StreamingVAE) -> Tensor:
    """Latents (F, C, h, w) float32 of the clip's views."""
    with torch.inference_mode():
        return vae.encode(from_pictures(torch.from_numpy(render_views(clip)))).float().clone()


def _in_other_colours(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with other roofs, and half of the walls in other colors."""

    def other(colour: str) -> str:
        return str(rng.choice([each for each in COLOURS if each != colour]))

    marks = [
        replace(
            mark,
            colour=other(mark.colour) if rng.random() < 0.5 else mark.colour,
            accent=other(cast(str, mark.accent)) if HAS_ACCENT[mark.kind] else None,
        )
        for mark in scene.landmarks
    ]
    return replace(scene, landmarks=tuple(marks))


def drawn_clip(rng: np.random.Generator) -> Drawn:
    """A random clip of eight chunks, without prompts that are reserved for judging."""
    for drawn in _drawn_clips(rng):
        told = torch.stack([phrase_ids(segment.prompt, PAFU_MINI.text_len) for segment in drawn.clip.segments])
        if not bool(reserved(told).any()):
            return drawn
    raise AssertionError  # unreachable: clips do not end


def _drawn_clips(rng: np.random.Generator) -> Iterator[Drawn]:
    while True:
        if rng.random() < FOGGY:
            controls = [CameraControl(speed=0)] * CHUNKS if rng.random() < 0.5 else random_tour(rng, CHUNKS)
            yield Drawn(_clip(rng, controls, _fog(rng)), None)
        elif rng.random() < STILL:
            yield Drawn(_clip(rng, [CameraControl(speed=0)] * CHUNKS, None), 1)
        else:
            pace, turn = random_pace(rng) * int(rng.choice([-1, 1])), CHUNKS // 2
            speeds = [pace] * turn + [-pace] * (CHUNKS - turn - 1) + [0]  # never beyond what was seen
            controls = [CameraControl(speed=speed) for speed in speeds]
            yield Drawn(_clip(rng, controls, None), turn + 1)  # the camera takes a part of a chunk to turn


def _fog(rng: np.random.Generator) -> tuple[int, int]:
    """The chunks from which fog is there, and gone; seldom from the first."""
    first = int(rng.integers(1, 5)) if rng.random() < 0.9 else 0
    return first, first + int(rng.integers(1, CHUNKS - first))


def _clip(rng: np.random.Generator, controls: Sequence[CameraControl], fog: tuple[int, int] | None) -> Clip:
    """A clip along ``controls``, one per chunk. Its first prompt names what is in view."""
    offsets, speeds = follow(controls, WIDTH, CHUNK_LATENTS)
    margin = WIDTH
    scene = random_scene(rng, min(offsets) - margin, max(offsets) + WIDTH + margin)
    return Clip(scene, _segments(rng, scene, offsets, fog), tuple(offsets), tuple(speeds))


def _segments(
    rng: np.random.Generator, scene: Scene, offsets: Sequence[int], fog: tuple[int, int] | None
) -> tuple[Segment, ...]:
    things = [landmark_phrase(rng, mark, place) for mark, place in in_view(scene, list(offsets[:1]))[:MOST_NAMED]]
    light = str(rng.choice(LIGHTS))

    def segment(first: int, weather: str, silent: bool) -> Segment:
        setting = f"{GROUND_PHRASES[scene.ground]} {LIGHT_PHRASES[light]}" + (" in fog" if weather == FOG else "")
        return Segment(first, light, ", ".join([setting, *(() if silent else things)]), weather)

    if fog is None:
        return (segment(0, CLEAR, False),)
    begins, ends = fog
    clear = [] if begins == 0 else [segment(0, CLEAR, False)]
    return (
        *clear,
        segment(begins, FOG, rng.random() < SILENT),
        segment(ends, CLEAR, begins > 0 and rng.random() < SILENT),
    )
