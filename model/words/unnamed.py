"""What a prompt leaves open: the seed chooses it once, and the stream keeps it. No torch.

A model that is told nothing of a roof's colour lets it drift through all colours while it is in view, whatever the
cache keeps (docs/log.md), and draws a haze where no light or ground is named. So a stream is told a complete prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TypeVar

from model.spec import PAFU_MINI
from model.words.clauses import ORDINALS
from model.words.description import beyond_the_known, recognised
from model.words.grammar import Description, Thing, arranged, describe
from model.words.vocabulary import GROUNDS, LIGHTS, ROOFED

T = TypeVar("T")

# Colors that hold while they are in view, measured (docs/log.md): of walls, and of what stands on them. A white roof of
# a tower may turn yellow.
STEADY = ("red", "yellow", "green", "blue", "white")
STEADY_ROOFS = ("red", "yellow", "green", "blue")

MOST_THINGS = PAFU_MINI.text_len - 1  # more are not drawn


def completed(prompt: str, before: str | None, seed: int | None) -> str:
    """The prompt, with what it leaves open: as in the completed prompt ``before`` (None: the stream begins), else
    chosen by the seed (None: left open, for a stream that begins with a picture).

    Light and ground stay, weather does not; a thing that was named before keeps its colors and place, and "another
    mill" leaves all known things where they are. A completed prompt names the same when it is completed again.
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
    other = f"a {thing.other}" if thing.other in ORDINALS else thing.other
    words = [other, thing.colour, thing.kind, thing.accent and f"with {thing.accent} roof", thing.place]
    return " ".join(word for word in words if word)


def _recognised(things: Sequence[Thing], known: Sequence[Thing]) -> list[Thing]:
    """The things, each with the attributes of the known one that it is. If one of them is another than the known ones,
    these stay, in their order, before the new ones. Only what this prompt adds is called another one."""
    strangers, where = beyond_the_known(things), recognised(things, known)
    found = [
        replace(known[where[place]] if place in where else thing, other=thing.other if place in strangers else None)
        for place, thing in enumerate(things)
    ]
    return _with_the_known(found, where, strangers, known) if strangers else found


def _with_the_known(
    found: Sequence[Thing], where: Mapping[int, int], strangers: Set[int], known: Sequence[Thing]
) -> list[Thing]:
    """The known things, as many as can be drawn, and then the new ones of ``found``. where: which of ``found`` is which
    known one. Those that the prompt names in full need not be kept as well."""
    new = [thing for place, thing in enumerate(found) if place not in where]
    named = [thing for place, thing in enumerate(found) if place not in strangers]
    recognised = {at: found[place] for place, at in where.items()}
    stay = (at for at in range(len(known)) if at in recognised or not any(map(known[at].fits, named)))
    old = [recognised.get(at, replace(known[at], other=None)) for at in stay]
    return old[: max(0, MOST_THINGS - len(new))] + new


def _ordinal(things: Sequence[Thing], place: int) -> int:
    return sum(thing.kind == things[place].kind for thing in things[:place]) + bool(things[place].other)


def _colored(thing: Thing, seed: int, ordinal: int) -> Thing:
    """The thing with both its colors: a roof has another one than its walls."""
    about = (thing.kind, thing.place, ordinal)
    colour = thing.colour or chosen([each for each in STEADY if each != thing.accent], seed, "colour", *about)
    accent = thing.accent
    if accent is None and thing.kind in ROOFED:
        accent = chosen([each for each in STEADY_ROOFS if each != colour], seed, "accent", *about)
    return replace(thing, colour=colour, accent=accent)


def chosen(options: Sequence[T], *about: object) -> T:
    """One of the options; the same on every machine for the same ``about``."""
    digest = hashlib.sha256(repr(about).encode()).digest()
    return options[int.from_bytes(digest[:8]) % len(options)]
