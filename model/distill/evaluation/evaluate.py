"""Evaluates a trained pafu-mini: adherence to held-out prompts, motion, and memory with and without a full cache."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cache.config import HEADS_OF, CacheConfig
from model.camera import CameraControl, CameraState, advance, camera_from_prompt, view_offset
from model.distill.data.world import WIDTH
from model.distill.evaluation.judge import (
    JUDGE_SEED,
    adherence,
    judge_prompts,
    landmarks_in_world,
    same_again,
)
from model.distill.evaluation.measures import motion
from model.distill.evaluation.probe import Probe, Seen
from model.distill.evaluation.sheets import save_sheet
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel

CLIP_CHUNKS = 14  # 10.5 seconds
FULL = CacheConfig(policy="full", budget_latents=60, sink_latents=0, recent_latents=0, position_mode="relative")
TWO_CHUNKS = CacheConfig(policy="window", budget_latents=6, sink_latents=0, recent_latents=6, position_mode="relative")
# far enough away that the last two chunks show nothing of the first view except what was remembered
AWAY_AND_BACK = (0, 16, 16, 16, 0, -16, -16, -16, 0)


@dataclass(frozen=True)
class Take:
    """A generated clip: uint8 pictures (T, H, W, 3) and the camera's position at each, in pixels."""

    pictures: np.ndarray
    offsets: Sequence[float]


def film(
    model: LoadedModel, prompt: str, seed: int, cache: CacheConfig, speeds: list[int | None], later: str | None = None
) -> Take:
    """One chunk per entry of ``speeds``; an entry that is not None first steers the camera. From the second chunk on,
    the prompt is ``later`` if given."""
    stream, pictures, offsets = VideoStream(model, prompt, seed, cache), [], []
    for number, speed in enumerate(speeds):
        if speed is not None:
            stream.set_camera(CameraControl(speed=speed))
        if number == 1 and later is not None:
            stream.set_prompt(later)
        begin = stream.camera
        chunk = stream.next_chunk()
        pictures.append(chunk.pictures)
        offsets += picture_offsets(begin, chunk.pictures.shape[0], waits=number == 0)
    return Take(np.concatenate(pictures), offsets)


def picture_offsets(begin: CameraState, pictures: int, per_latent: int = 4, waits: bool = False) -> list[int]:
    """Camera offset of each of the next ``pictures`` pictures from camera state ``begin``; a stream's first latent
    frame ``waits`` at its view."""
    _, offsets, speeds = advance(begin, pictures // per_latent, per_latent)
    moving = [o + part * s for o, s in zip(offsets, speeds, strict=True) for part in range(per_latent)]
    return [view_offset(offsets[0], speeds[0])] * per_latent + moving[per_latent:] if waits else moving


def served_cache(model: LoadedModel) -> CacheConfig:
    """The server's default cache; without a head, a window of the same size."""
    spec = model.spec
    heads = [getattr(model, head) for head in HEADS_OF.get(spec.cache_policy, ())]
    policy = "sink_window" if None in heads else spec.cache_policy
    return CacheConfig.filled_in(policy, spec.cache_budget_latents, None, None, most=spec.chunk_latents)


def judge_adherence(model: LoadedModel, probe: Probe, prompts: int, folder: Path) -> dict[str, float]:
    """Share of claims that hold, by kind of claim and overall, on 10-second clips, each with its chance level: the same
    claims judged on the next prompt's clip (none for a single prompt); motion in grey levels."""
    held: dict[str, list[bool]] = defaultdict(list)
    chance: dict[str, list[bool]] = defaultdict(list)
    motions, rows, asked = [], [], judge_prompts(prompts)
    for index, claims in enumerate(track(asked, description="adherence")):
        control = camera_from_prompt(claims.prompt)
        speeds = [control.speed if control else None] + [None] * (CLIP_CHUNKS - 1)
        take = film(model, claims.prompt, JUDGE_SEED + index, served_cache(model), speeds)
        for found, judged in ((held, claims), (chance, asked[index - 1])):
            for name, values in adherence(judged, take.pictures, probe).items():
                found[name] += values
        motions.append(motion(take.pictures))
        if index < 12:
            rows.append(take.pictures[[0, 11, 40, 80, 120, 160]])
    save_sheet(rows, folder / "judge.adherence.png")
    by_chance = _shares(chance) if prompts > 1 else {}
    scores = _shares(held) | {f"{name}_chance": share for name, share in by_chance.items()}
    return {**scores, "motion": float(np.mean(motions))}


def _shares(held: dict[str, list[bool]]) -> dict[str, float]:
    """The share of each kind of claim, and "adherence" of all kinds of the target: object, color, place, camera
    direction and light. Ground is reported but is not part of it."""
    asked = [value for name in ("object", "colour", "place", "camera", "light") for value in held[name]]
    return {"adherence": float(np.mean(asked)), **{name: float(np.mean(values)) for name, values in held.items()}}


def judge_memory(model: LoadedModel, probe: Probe, scenes: int, folder: Path) -> dict[str, float]:
    """Landmark accuracy after panning away and back: full cache, a window of two chunks, and chance.

    The first chunk's prompt names landmarks; later prompts name none, so that only memory can restore them. Chance
    compares with another scene's landmarks.
    """
    again: dict[str, list[bool]] = defaultdict(list)
    firsts, laters, rows = [], [], []
    for index, claims in enumerate(track(judge_prompts(scenes), description="memory")):
        bare = f"{claims.ground}, {claims.light}"
        for name, cache in (("full", FULL), ("window", TWO_CHUNKS)):
            take = film(model, claims.prompt, JUDGE_SEED + index, cache, list(AWAY_AND_BACK), bare)
            first, later = _sightings(take, probe)
            again[name] += same_again(first, later)
            if name == "full":
                firsts.append(first)
                laters.append(later)
            if index < 6:
                rows.append(take.pictures[[8, 20, 40, 56, 80, 100]])
    for index in range(scenes):
        again["chance"] += same_again(firsts[index], laters[(index + 1) % scenes])
    save_sheet(rows, folder / "judge.memory.png")
    return {f"memory_{name}": float(np.mean(values)) for name, values in again.items()} | {
        "landmarks": len(again["full"])
    }


def _sightings(take: Take, probe: Probe) -> tuple[list[Seen], list[Seen]]:
    """Landmarks of the first chunk and of the last one, in world pixels; only those that were out of view for long."""
    first = range(2, 12, 2)
    last = range(len(take.pictures) - 8, len(take.pictures), 2)
    hidden = WIDTH - 60  # anything farther right came back into view earlier than two chunks before the end
    return tuple(  # type: ignore[return-value]
        [s for s in _seen_at(take, probe, pictures) if s.x < hidden] for pictures in (first, last)
    )


def _seen_at(take: Take, probe: Probe, pictures: range) -> list[Seen]:
    picked = list(pictures)
    return landmarks_in_world(probe.read(take.pictures[picked]), [take.offsets[i] for i in picked])


def judge(model: LoadedModel, probe: Probe, folder: Path, prompts: int = 32, scenes: int = 96) -> dict[str, float]:
    """Run all judgements: prints a table, and writes ``judge.json`` and contact sheets into ``folder``."""
    scores = judge_adherence(model, probe, prompts, folder) | judge_memory(model, probe, scenes, folder)
    table = Table("measure", "value", title=f"pafu-mini, {prompts} held-out prompts, {scenes} scenes")
    for name, value in scores.items():
        table.add_row(name, f"{value:.3f}")
    Console().print(table)
    (folder / "judge.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores
