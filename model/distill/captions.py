"""Captions: a small grammar that says what a clip shows, in the words of ``model.vocabulary`` and their synonyms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from model.camera import DEFAULT_SPEED
from model.spec import PAFU_MINI
from model.vocabulary import LIGHTS, SYNONYMS

if TYPE_CHECKING:
    from model.distill.world import Landmark, Scene, Segment

WIDTH, CHUNK_LATENTS = PAFU_MINI.width, PAFU_MINI.chunk_latents
MOST_NAMED = PAFU_MINI.text_len - 1  # things that the text encoder has slots for
SAID_AHEAD = 3  # chunks
SILENT = 0.25  # share of later prompts that name no thing
EDGE = 16  # a landmark whose middle is nearer to the picture's edge is not named

PLACE_PHRASES = {"left": "on the left", "middle": "in the middle", "right": "on the right", "ahead": "ahead"}
LIGHT_PHRASES = {"morning": "in the morning", "day": "by day", "sunset": "at sunset", "night": "at night"}
GROUND_PHRASES = {"meadow": "a meadow", "desert": "a desert", "snow": "snow"}


def place_of(x: float) -> str | None:
    """The third of the picture that screen column ``x`` (pixels) lies in, or None outside of it."""
    if not EDGE <= x <= WIDTH - EDGE:
        return None
    return ("left", "middle", "right")[min(2, int(3 * x / WIDTH))]


def random_segments(rng: np.random.Generator, scene: Scene, offsets: list[int]) -> tuple[Segment, ...]:
    """One or two prompts for a clip: what is in view when each begins, what will come into view while it lasts."""
    from model.distill.world import Segment

    chunks = len(offsets) // CHUNK_LATENTS
    starts = [0] if chunks < 4 or rng.random() < 0.45 else [0, int(rng.integers(2, chunks - 1))]
    light, segments = str(rng.choice(LIGHTS)), []
    for position, start in enumerate(starts):
        end = starts[position + 1] if position + 1 < len(starts) else chunks
        if position and rng.random() < 0.65:
            light = str(rng.choice([other for other in LIGHTS if other != light]))
        view = offsets[start * CHUNK_LATENTS : end * CHUNK_LATENTS]
        segments.append(Segment(start, light, random_prompt(rng, scene, light, view)))
    return tuple(segments)


def prompts_by_chunk(rng: np.random.Generator, scene: Scene, lights: list[str], offsets: list[int]) -> list[str]:
    """For every chunk what could be said as it begins: what is in view then and comes into view in the next three
    chunks; from the second chunk on often nothing but ground and light, so that things must be remembered."""
    prompts = []
    for chunk, light in enumerate(lights):
        view = offsets[chunk * CHUNK_LATENTS : (chunk + SAID_AHEAD) * CHUNK_LATENTS]
        silent = chunk > 0 and rng.random() < SILENT
        prompts.append(_unreserved(lambda: random_prompt(rng, scene, light, [] if silent else view)))  # noqa: B023
    return prompts


def _unreserved(draw: Callable[[], str]) -> str:
    """The first prompt drawn that is not kept for judging."""
    from model.distill.holdout import reserved
    from model.text import phrase_ids

    while True:
        prompt = draw()
        if not bool(reserved(phrase_ids(prompt, PAFU_MINI.text_len))):
            return prompt


def caption(rng: np.random.Generator, scene: Scene, light: str, offsets: list[int]) -> str:
    """A prompt that is never silent about what stands in the first view of the stretch ``offsets``."""
    named = [_landmark_phrase(rng, mark, place) for mark, place in in_view(scene, offsets[:1])[:MOST_NAMED]]
    head = f"{GROUND_PHRASES[scene.ground]} {LIGHT_PHRASES[light]}"
    return ", ".join(part for part in (head, " and ".join(named)) if part)


def random_prompt(rng: np.random.Generator, scene: Scene, light: str, offsets: list[int]) -> str:
    """A caption of the stretch of tour ``offsets`` (first-picture offset per latent frame, pixels)."""
    silent = rng.random() < 0.08
    shown = [] if silent else in_view(scene, offsets)
    named = [_landmark_phrase(rng, mark, place) for mark, place in shown if rng.random() < 0.95][:MOST_NAMED]
    parts = [LIGHT_PHRASES[light]] if rng.random() < 0.95 else []
    parts += [GROUND_PHRASES[scene.ground]] if rng.random() < 0.95 else []
    head = " ".join(parts[::-1] if rng.random() < 0.5 else parts)
    prompt = ", ".join(part for part in (head, " and ".join(named)) if part)
    return with_synonyms(rng, prompt)


def in_view(scene: Scene, offsets: list[int]) -> list[tuple[Landmark, str]]:
    """Landmarks with their places: in the first picture by thirds, then those that come into view later, "ahead"."""
    if not offsets:
        return []
    first = [(mark, place_of(mark.x - offsets[0])) for mark in scene.landmarks]
    seen = [(mark, place) for mark, place in first if place]
    later: list[tuple[Landmark, str]] = []
    for offset in offsets[1:]:
        for mark in scene.landmarks:
            if place_of(mark.x - offset) and mark not in [m for m, _ in seen + later]:
                later.append((mark, "ahead"))
    return seen + later


def _landmark_phrase(rng: np.random.Generator, mark: Landmark, place: str) -> str:
    phrase = f"a {mark.colour} {mark.kind}" if rng.random() < 0.95 else f"a {mark.kind}"
    if mark.accent and rng.random() < 0.75:
        phrase += f" with a {mark.accent} roof"
    if rng.random() < 0.92:
        phrase += f" {PLACE_PHRASES[place]}"
    return phrase


def with_synonyms(rng: np.random.Generator, prompt: str) -> str:
    """The prompt with some of its words replaced by synonyms."""
    words = prompt.split(" ")
    for index, word in enumerate(words):
        bare = word.strip(",")
        if SYNONYMS.get(bare) and bare not in ("roof", "ahead") and rng.random() < 0.2:
            words[index] = word.replace(bare, str(rng.choice(SYNONYMS[bare])))
    return " ".join(words)


def camera_phrase(speed: int) -> str:
    """The words that make the camera move at ``speed`` (pixels a picture)."""
    if speed == 0:
        return "the camera holds still"
    pace = " slowly" if abs(speed) < DEFAULT_SPEED else " fast" if abs(speed) > DEFAULT_SPEED else ""
    return f"the camera pans{pace} {'right' if speed > 0 else 'left'}"
