"""Prompts for a clip, chunk by chunk, true and varied. They may announce things long in advance, announce things that
never come, or call things back by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.distill.world2.paths import TURN_PICTURES, Clip
from model.distill.world2.scene import Thing, on_screen, place_on_screen
from model.distill.world2.size import CHUNK_LATENTS, HEIGHT, LAYER, PICTURES_PER_CHUNK, SCALE, WIDTH
from model.words.vocabulary2 import COLOURS, KINDS, SYNONYMS

MOST_NAMED = 9
TERSE, FEW = 0.4, 3  # share of prompts that name at most this few things, as people do
SAID_AHEAD = 5  # chunks
SILENT = 0.25  # share of later prompts that name nothing
EDGE = 24 * SCALE  # a thing whose middle is closer to the picture's edge is not named
HIDDEN = 0.6  # a thing is not named if this share of it is hidden
FALSE_HOPE = 0.12  # share of prompts that announce something the clip never shows

PLACE_PHRASES = {"left": "on the left", "middle": "in the middle", "right": "on the right", "ahead": "ahead"}
DISTANCE_PHRASES = {"far": "in the distance", "near": "in front"}
LIGHT_PHRASES = {"morning": "in the morning", "day": "by day", "sunset": "at sunset", "night": "at night"}
ADJECTIVES = {
    "clear": ("sunny", "clear", "cloudless", "bright"),
    "cloudy": ("cloudy", "overcast", "grey"),
    "rain": ("rainy", "stormy"),
    "snowfall": (),
    "fog": ("foggy", "misty", "hazy"),
}
WEATHER_NOUNS = {
    "clear": ("a clear sky",),
    "cloudy": ("a cloudy sky",),
    "rain": ("rain", "it is raining"),
    "snowfall": ("snowfall", "it is snowing"),
    "fog": ("fog", "mist"),
}
GROUND_NOUNS = {"meadow": "meadow", "desert": "desert", "snow": "snowy landscape", "lake": "lake", "seashore": "beach"}
ACCENT_NOUN = {
    **{"person": "hat", "snowman": "hat", "boat": "sail", "balloon": "stripes", "tent": "stripes", "horse": "mane"},
    **{"mill": "cap", "lighthouse": "cap", "lamp": "top"},
}


@dataclass(frozen=True)
class Sight:
    """A thing with the place that a prompt may claim for it."""

    thing: Thing
    place: str  # a word of PLACES


def prompts_by_chunk(rng: np.random.Generator, clip: Clip) -> list[str]:
    """A possible prompt for the beginning of every chunk."""
    seen: set[int] = set()
    prompts = []
    for chunk in range(clip.chunks):
        here = sights(clip, chunk * CHUNK_LATENTS)
        silent = chunk > 0 and rng.random() < SILENT
        shown = [] if silent else here + _announced(rng, clip, chunk, here, seen)
        prompts.append(_prompt(rng, clip, chunk, shown))
        seen |= {s.thing.identity for f in range(CHUNK_LATENTS) for s in sights(clip, chunk * CHUNK_LATENTS + f)}
    return prompts


def sights(clip: Clip, latent: int) -> list[Sight]:
    """The recognisable things at the end of a latent frame, with their third of the picture, largest first."""
    offset = clip.offsets[latent]
    in_view = [thing for thing in clip.scene.things if on_screen(thing, offset)]
    boxes = {thing.identity: _box(thing, offset) for thing in in_view}
    found = []
    for thing in sorted(in_view, key=lambda t: -t.width * t.height):
        x, foot = place_on_screen(thing, offset)
        visible = EDGE <= x <= WIDTH - EDGE and foot - thing.height * 0.6 > 0 and foot - thing.height * 0.5 < HEIGHT
        if visible and _hidden(thing, in_view, boxes) < HIDDEN:
            found.append(Sight(thing, ("left", "middle", "right")[min(2, int(3 * x / WIDTH))]))
    return found


def _box(thing: Thing, offset: np.ndarray) -> tuple[float, float, float, float]:
    x, foot = place_on_screen(thing, offset)
    return x - thing.width / 2, foot - thing.height, x + thing.width / 2, foot


def _hidden(thing: Thing, others: list[Thing], boxes: dict[int, tuple[float, float, float, float]]) -> float:
    """An upper bound for the share of a thing's box that later painted things cover."""
    x0, y0, x1, y1 = boxes[thing.identity]
    covered = 0.0
    for other in others:
        if other.identity > thing.identity:
            a0, b0, a1, b1 = boxes[other.identity]
            covered += max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
    return covered / ((x1 - x0) * (y1 - y0))


def _announced(rng: np.random.Generator, clip: Clip, chunk: int, here: list[Sight], seen: set[int]) -> list[Sight]:
    """What comes into view in the next chunks, called back if it was seen before; or something that never comes."""
    now = {sight.thing.identity for sight in here}
    last = min(len(clip.offsets), (chunk + 1 + int(rng.integers(1, SAID_AHEAD + 1))) * CHUNK_LATENTS)
    coming: dict[int, Sight] = {}
    for latent in range(chunk * CHUNK_LATENTS + 1, last, 2):
        for sight in sights(clip, latent):
            known = sight.thing.identity
            if known not in now and known not in coming and sight.thing.layer != "far":
                coming[known] = Sight(sight.thing, "back" if known in seen else "ahead")
    if rng.random() < FALSE_HOPE:
        thing = clip.scene.things[int(rng.integers(len(clip.scene.things)))]
        if thing.identity not in now | set(coming) and thing.layer == "main":
            coming[thing.identity] = Sight(thing, "back" if thing.identity in seen else "ahead")
    return list(coming.values())


def _prompt(rng: np.random.Generator, clip: Clip, chunk: int, shown: list[Sight]) -> str:
    named = [s for i, s in enumerate(shown) if rng.random() < (0.9 if s.thing.layer == "main" else 0.6) - 0.03 * i]
    most = int(rng.integers(1, FEW + 1)) if rng.random() < TERSE else MOST_NAMED
    named = [named[i] for i in sorted(rng.permutation(len(named))[:most])]
    parts = [_setting(rng, clip, chunk), *(_phrase(rng, sight) for sight in named)]
    return with_synonyms(rng, ", ".join(part for part in parts if part))


def _setting(rng: np.random.Generator, clip: Clip, chunk: int) -> str:
    """Ground, weather and light; while the light changes, both the old and the new one."""
    before, light, share = clip.light_at(chunk * PICTURES_PER_CHUNK)
    changing = share < 1 and share * TURN_PICTURES > 0
    weather, words = clip.scene.weather, []
    adjective = _one_of(rng, ADJECTIVES[weather]) if rng.random() < 0.55 else ""
    if rng.random() < 0.9:
        words.append(_with_article(f"{adjective} {GROUND_NOUNS[clip.scene.ground]}".strip()))
    elif adjective:
        words.append(adjective)
    if rng.random() < 0.93 or changing:
        words.append(LIGHT_PHRASES[before if changing else light] + (f" turning to {light}" if changing else ""))
    setting = " ".join(words)
    if not adjective and rng.random() < 0.8:
        setting = ", ".join(part for part in (setting, _one_of(rng, WEATHER_NOUNS[weather])) if part)
    return setting


def _one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return str(rng.choice(words)) if words else ""


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _phrase(rng: np.random.Generator, sight: Sight) -> str:
    thing = sight.thing
    words = f"{thing.colour} {thing.kind}" if rng.random() < 0.94 else thing.kind
    if thing.accent and rng.random() < 0.7:
        noun = ACCENT_NOUN.get(thing.kind, "roof")
        words += " with " + (f"{thing.accent} {noun}" if noun == "stripes" else _with_article(f"{thing.accent} {noun}"))
    if sight.place == "back":
        return f"back to the {words}"
    words = _with_article(words)
    if thing.layer in ("far", "near") and rng.random() < 0.8:
        words += f" {DISTANCE_PHRASES[thing.layer]}"
    return f"{words} {PLACE_PHRASES[sight.place]}" if rng.random() < 0.9 else words


def with_synonyms(rng: np.random.Generator, prompt: str) -> str:
    """The prompt with some words replaced by synonyms, and articles adjusted."""
    words = prompt.split(" ")
    for index, word in enumerate(words):
        bare = word.strip(",")
        if bare in _REPLACEMENTS and rng.random() < 0.2:
            words[index] = word.replace(bare, str(rng.choice(_REPLACEMENTS[bare])))
            if index and words[index - 1] in ("a", "an"):
                words[index - 1] = _with_article(words[index]).split(" ")[0]
    return " ".join(words)


# Synonyms that fit into the same position: singular nouns and adjectives of one syntax.
_REPLACEABLE = (*KINDS, *COLOURS, "morning", "sunset", "meadow", "lake", "middle", "ahead")
_MISFITS = frozenset(
    "people men women somebody someone sailing cattle cacti snowmen countryside water lakeside early".split()
)
_REPLACEMENTS = {
    word: [other for other in SYNONYMS[word] if other not in _MISFITS]
    for word in _REPLACEABLE
    if set(SYNONYMS[word]) - _MISFITS
}

assert set(ACCENT_NOUN) < set(KINDS) and set(DISTANCE_PHRASES) < set(LAYER)
