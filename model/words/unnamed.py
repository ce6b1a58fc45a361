"""What a prompt leaves open: the seed chooses it once, and the stream keeps it. No torch.

A model that is told nothing of a roof's colour lets it drift through all colours while it is in view, whatever the
cache keeps (docs/log.md), and draws a haze where no light or ground is named. So a stream is told a complete prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

from model.words.grammar import Description, Thing, arranged, describe
from model.words.vocabulary import GROUNDS, LIGHTS, ROOFED

T = TypeVar("T")

# Colors that hold while they are in view, measured (docs/log.md): of walls, and of what stands on them. A red cap of a
# mill turns blue within 24 seconds, a white roof of a tower yellow.
STEADY = ("red", "yellow", "green", "blue", "white")
STEADY_ROOFS = {
    "house": ("red", "yellow", "green", "blue"),
    "tower": ("red", "yellow", "green", "blue"),
    "mill": ("yellow", "green", "blue"),
}


def completed(prompt: str, before: str | None, seed: int | None) -> str:
    """The prompt, with what it leaves open: as in the completed prompt ``before`` (None: the stream begins), else
    chosen by the seed (None: left open, for a stream that begins with a picture).

    Light and ground stay, weather does not; a thing that was named before keeps its colors and place. A completed
    prompt is not changed further.
    """
    said, known = describe(prompt), describe(before or "")
    light, ground = said.light or known.light, said.ground or known.ground
    if before is None and seed is not None:
        light, ground = light or chosen(LIGHTS, seed, "light"), ground or chosen(GROUNDS, seed, "ground")
    whole = arranged(replace(said, light=light, ground=ground, things=_recognised(said.things, known.things)))
    if seed is not None:
        whole.things = [
            thing if thing in known.things else _colored(thing, seed, _ordinal(whole.things, place))
            for place, thing in enumerate(whole.things)
        ]
    return spoken(whole)


def spoken(said: Description) -> str:
    """A prompt that ``describe`` reads as ``said``."""
    setting = " ".join(word for word in (said.ground, said.light, said.weather) if word)
    return ", ".join(phrase for phrase in (setting, *(_phrase(thing) for thing in said.things)) if phrase)


def _phrase(thing: Thing) -> str:
    words = [thing.colour, thing.kind, thing.accent and f"with {thing.accent} roof", thing.place]
    return " ".join(word for word in words if word)


def _recognised(things: Sequence[Thing], known: Sequence[Thing]) -> list[Thing]:
    """The things, each with the attributes of a known one that fits it; those that say most of themselves choose
    first, and of several that fit take the one that was named at the same place in the prompt, or near it."""
    free, found = set(range(len(known))), list(things)
    for place in sorted(range(len(found)), key=lambda place: -len(_mentioned(found[place]))):
        said = _mentioned(found[place])
        fits = [index for index in free if said.items() <= _mentioned(known[index]).items()]
        if fits:
            nearest = min(fits, key=lambda index: (abs(index - place), index))
            found[place] = known[nearest]
            free.remove(nearest)
    return found


def _mentioned(thing: Thing) -> dict[str, str]:
    return {each.name: value for each in fields(thing) if (value := getattr(thing, each.name))}


def _ordinal(things: Sequence[Thing], place: int) -> int:
    return sum(thing.kind == things[place].kind for thing in things[:place])


def _colored(thing: Thing, seed: int, ordinal: int) -> Thing:
    """The thing with both its colors: a roof has another one than its walls."""
    about = (thing.kind, thing.place, ordinal)
    colour = thing.colour or chosen([each for each in STEADY if each != thing.accent], seed, "colour", *about)
    accent = thing.accent
    if accent is None and thing.kind in ROOFED:
        accent = chosen([each for each in STEADY_ROOFS[thing.kind] if each != colour], seed, "accent", *about)
    return replace(thing, colour=colour, accent=accent)


def chosen(options: Sequence[T], *about: object) -> T:
    """One of the options; the same on every machine for the same ``about``."""
    digest = hashlib.sha256(repr(about).encode()).digest()
    return options[int.from_bytes(digest[:8]) % len(options)]
