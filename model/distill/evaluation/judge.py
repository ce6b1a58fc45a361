"""Judges generated video with the probe: whether it shows what the prompt names, remembers it, and moves.

``adherence`` scores five kinds of claims of a prompt: object, color, place, light, camera direction. ``same_again``
checks, after panning away and back, whether the same landmarks are there.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from model.distill.data.captions import LIGHT_PHRASES, PLACE_PHRASES, camera_phrase, place_of
from model.distill.data.dataset import HELD_OUT_SEED
from model.distill.data.holdout import reserved
from model.distill.data.world import HAS_ACCENT, WIDTH
from model.distill.evaluation.probe import MARGIN, Probe, Reading, Seen
from model.spec import PAFU_MINI
from model.words.text import phrase_ids
from model.words.vocabulary import COLOURS, GROUNDS, KINDS, LIGHTS

JUDGE_SEED = HELD_OUT_SEED + 1
MAX_SHIFT = 80  # pixels, per PICTURE_STEP pictures
PICTURE_STEP = 4
SAME_PLACE = 40  # pixels between two sightings of one landmark


@dataclass(frozen=True)
class Claims:
    """A held-out prompt and its claims."""

    prompt: str
    landmarks: tuple[tuple[str, str, str | None, str], ...]  # (kind, color, accent, place)
    light: str
    ground: str
    speed: int


def judge_prompts(count: int, seed: int = JUDGE_SEED) -> list[Claims]:
    """Reserved prompts, never used in training, with one or two landmarks, light, ground and camera."""
    drawn = (_claims(np.random.default_rng((seed, index))) for index in itertools.count())
    kept = (claims for claims in drawn if reserved(phrase_ids(claims.prompt, PAFU_MINI.text_len)))
    return list(itertools.islice(kept, count))


def _claims(rng: np.random.Generator) -> Claims:
    places = rng.choice(["left", "middle", "right"], size=int(rng.integers(1, 3)), replace=False)
    landmarks = []
    for place in sorted(places):
        kind, colour = str(rng.choice(KINDS)), str(rng.choice(COLOURS))
        accent = (
            str(rng.choice([c for c in COLOURS if c != colour])) if HAS_ACCENT[kind] and rng.random() < 0.5 else None
        )
        landmarks.append((kind, colour, accent, str(place)))
    light, ground, speed = str(rng.choice(LIGHTS)), str(rng.choice(GROUNDS)), int(rng.choice([-8, -4, 0, 4, 8]))
    named = " and ".join(
        f"a {colour} {kind}{f' with a {accent} roof' if accent else ''} {PLACE_PHRASES[place]}"
        for kind, colour, accent, place in landmarks
    )
    ground_phrase = {"meadow": "a meadow", "desert": "a desert", "snow": "snow"}[ground]
    prompt = f"{ground_phrase} {LIGHT_PHRASES[light]}, {named}; {camera_phrase(speed)}"
    return Claims(prompt, tuple(landmarks), light, ground, speed)


def shift_between(before: np.ndarray, after: np.ndarray) -> int:
    """Pixels that the camera moved to the right between two pictures: the shift with the best match."""
    a, b = (p[24:].astype(np.float32) for p in (before, after))
    best, best_error = 0, np.inf
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        left, right = max(0, shift), min(WIDTH, WIDTH + shift)
        error = float(np.abs(a[:, left:right] - b[:, left - shift : right - shift]).mean())
        if error < best_error - 1e-6:
            best, best_error = shift, error
    return best


def camera_shifts(pictures: np.ndarray) -> list[int]:
    """The camera's shift (pixels) over every PICTURE_STEP pictures."""
    return [
        shift_between(pictures[i], pictures[i + PICTURE_STEP])
        for i in range(0, len(pictures) - PICTURE_STEP, PICTURE_STEP)
    ]


def direction(speed: float) -> int:
    return 0 if abs(speed) < 1 else int(np.sign(speed))


def adherence(claims: Claims, pictures: np.ndarray, probe: Probe) -> dict[str, list[bool]]:
    """Which claims hold for one clip, uint8 (T, H, W, 3). Place is judged in the first chunk, the others anywhere."""
    readings = probe.read(pictures[2::6])
    first = probe.read(pictures[0:12:3])
    held: dict[str, list[bool]] = defaultdict(list)
    for kind, colour, accent, place in claims.landmarks:
        seen = [s for reading in readings + first for s in reading.landmarks if s.kind == kind]
        held["object"].append(bool(seen))
        held["colour"].append(any(s.colour == colour for s in seen))
        if accent:
            held["colour"].append(any(s.accent == accent and s.colour == colour for s in seen))
        held["place"].append(any(s.kind == kind and place_of(s.x) == place for r in first for s in r.landmarks))
    held["light"].append(_majority([r.light for r in readings]) == claims.light)
    held["ground"].append(_majority([r.ground for r in readings]) == claims.ground)
    held["camera"].append(direction(float(np.median(camera_shifts(pictures)))) == direction(claims.speed))
    return held


def _majority(values: list[str]) -> str:
    return max(set(values), key=values.count)


def landmarks_in_world(readings: list[Reading], offsets: list[float]) -> list[Seen]:
    """All sightings with x in world pixels, except those close to the picture's edge."""
    return [
        Seen(s.kind, s.colour, s.accent, s.x + offset, s.confidence)
        for reading, offset in zip(readings, offsets, strict=True)
        for s in reading.landmarks
        if MARGIN <= s.x <= WIDTH - MARGIN
    ]


def same_again(first: list[Seen], later: list[Seen]) -> list[bool]:
    """For every landmark of ``first``: whether ``later`` shows the same kind and colour near its place."""
    out = []
    for mark in _merged(first):
        near = [s for s in later if abs(s.x - mark.x) <= SAME_PLACE]
        votes = _majority([f"{s.kind} {s.colour}" for s in near]) if near else ""
        out.append(votes == f"{mark.kind} {mark.colour}")
    return out


def _merged(seen: list[Seen]) -> list[Seen]:
    """One entry per place on which at least two pictures agree."""
    groups: list[list[Seen]] = []
    for s in sorted(seen, key=lambda s: s.x):
        if groups and abs(groups[-1][-1].x - s.x) <= SAME_PLACE / 2:
            groups[-1].append(s)
        else:
            groups.append([s])
    merged = []
    for group in groups:
        label = _majority([f"{s.kind} {s.colour}" for s in group])
        members = [s for s in group if f"{s.kind} {s.colour}" == label]
        if len(members) >= 2:
            merged.append(members[len(members) // 2])
    return merged
