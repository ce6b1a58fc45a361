"""Captions: a small grammar that describes a clip in the words of ``model.words.vocabulary`` and their synonyms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from model.camera import DEFAULT_SPEED
from model.spec import PAFU_MINI
from model.words.scenery import third
from model.words.vocabulary import LIGHTS, SYNONYMS

if TYPE_CHECKING:
    from model.distill.data.world import Landmark, Scene, Segment

WIDTH, CHUNK_LATENTS = PAFU_MINI.width, PAFU_MINI.chunk_latents
MOST_NAMED = PAFU_MINI.text_len - 1  # the text encoder's slots for things
SAID_AHEAD = 3  # chunks
SILENT = 0.25  # share of later prompts that name nothing
EDGE = 16  # a landmark whose middle is closer to the picture's edge is not named

PLACE_PHRASES = {"left": "on the left", "middle": "in the middle", "right": "on the right", "ahead": "ahead"}
LIGHT_PHRASES = {"morning": "in the morning", "day": "by day", "sunset": "at sunset", "night": "at night"}
GROUND_PHRASES = {"meadow": "a meadow", "desert": "a desert", "snow": "snow"}


def place_of(x: float) -> str | None:
    """The third of the picture at screen column ``x`` (pixels), or None outside the picture."""
    if not EDGE <= x <= WIDTH - EDGE:
        return None
    return third(x, WIDTH)


def random_segments(rng: np.random.Generator, scene: Scene, offsets: list[int]) -> tuple[Segment, ...]:
    """One or two prompts for a clip: each names what is in view at its beginning and what comes into view during it."""
    from model.distill.data.world import Segment

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
    """A possible prompt for the beginning of every chunk: what is in view then, and what comes into view in the next
    three chunks. From the second chunk on, many name only ground and light, so that things must be remembered."""
    prompts = []
    for chunk, light in enumerate(lights):
        view = offsets[chunk * CHUNK_LATENTS : (chunk + SAID_AHEAD) * CHUNK_LATENTS]
        silent = chunk > 0 and rng.random() < SILENT
        prompts.append(_unreserved(lambda: random_prompt(rng, scene, light, [] if silent else view)))  # noqa: B023
    return prompts


def _unreserved(draw: Callable[[], str]) -> str:
    """Draws prompts until one is not reserved for judging."""
    from model.distill.data.holdout import reserved
    from model.words.text import phrase_ids

    while True:
        prompt = draw()
        if not bool(reserved(phrase_ids(prompt, PAFU_MINI.text_len))):
            return prompt


def caption(rng: np.random.Generator, scene: Scene, light: str, offsets: list[int]) -> str:
    """A prompt that always names things in the first view of the stretch ``offsets``."""
    named = [landmark_phrase(rng, mark, place) for mark, place in in_view(scene, offsets[:1])[:MOST_NAMED]]
    head = f"{GROUND_PHRASES[scene.ground]} {LIGHT_PHRASES[light]}"
    return ", ".join(part for part in (head, " and ".join(named)) if part)


def random_prompt(rng: np.random.Generator, scene: Scene, light: str, offsets: list[int]) -> str:
    """A caption for a part of a tour, ``offsets`` (first-picture offset per latent frame, pixels)."""
    silent = rng.random() < 0.08
    shown = [] if silent else in_view(scene, offsets)
    named = [landmark_phrase(rng, mark, place) for mark, place in shown if rng.random() < 0.95][:MOST_NAMED]
    parts = [LIGHT_PHRASES[light]] if rng.random() < 0.95 else []
    parts += [GROUND_PHRASES[scene.ground]] if rng.random() < 0.95 else []
    head = " ".join(parts[::-1] if rng.random() < 0.5 else parts)
    prompt = ", ".join(part for part in (head, " and ".join(named)) if part)
    return with_synonyms(rng, prompt)


def in_view(scene: Scene, offsets: list[int]) -> list[tuple[Landmark, str]]:
    """Landmarks with their places: those of the first picture by thirds, then those that come into view later, as
    "ahead"."""
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


def landmark_phrase(rng: np.random.Generator, mark: Landmark, place: str) -> str:
    """A landmark with its colors and place, of which some may be left out."""
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
    """The phrase that makes the camera move at ``speed`` (pixels per picture)."""
    if speed == 0:
        return "the camera holds still"
    pace = " slowly" if abs(speed) < DEFAULT_SPEED else " fast" if abs(speed) > DEFAULT_SPEED else ""
    return f"the camera pans{pace} {'right' if speed > 0 else 'left'}"
