"""What a prompt says: light, ground, and things with their colors and places. No torch.

The model receives phrases, not words. A few rules here decide which color belongs to which thing; attention layers
would need far more training for that than for drawing (docs/log.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from model.words.lexicon import affirmed, is_number
from model.words.vocabulary import CANONICAL, COLOURS, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES

IN_SIGHT = ("left", "middle", "right")  # places of the first picture


@dataclass
class Thing:
    """A landmark as one phrase describes it; None: not mentioned."""

    kind: str
    colour: str | None = None
    accent: str | None = None
    place: str | None = None


@dataclass
class Description:
    """Everything that a prompt says."""

    light: str | None = None
    ground: str | None = None
    things: list[Thing] = field(default_factory=list)


def describe(prompt: str) -> Description:
    """Parse a prompt clause by clause. Unknown and negated words are ignored; a later light or ground replaces an
    earlier one."""
    said, place = Description(), None
    for clause in re.split(r"[,;.:!?]|\band\b", affirmed(prompt)):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\d+", clause)]
        place = _read_clause(words, said, place)
    return said


def arranged(said: Description) -> Description:
    """The same description, with a free place in view for each thing that has none, if there are several things.
    Otherwise they would be drawn at the same place, and one of them lost."""
    free = [place for place in IN_SIGHT if all(thing.place != place for thing in said.things)]
    homeless = [thing for thing in said.things if thing.place is None]
    if len(said.things) < 2 or not 0 < len(homeless) <= len(free):
        return said
    picked = {1: free[:1], 2: [free[0], free[-1]]}.get(len(homeless), free)
    homes = {id(thing): place for thing, place in zip(homeless, picked, strict=True)}
    things = [replace(thing, place=thing.place or homes[id(thing)]) for thing in said.things]
    return replace(said, things=things)


def names_anew(before: str, after: str) -> bool:
    """Whether ``after`` names a thing that ``before`` does not name with the same colours and place."""
    known = describe(before).things
    return any(not any(_repeats(thing, other) for other in known) for thing in describe(after).things)


def _repeats(thing: Thing, known: Thing) -> bool:
    """Whether ``thing`` asks for nothing that ``known`` did not ask for; attributes that are not mentioned match
    anything."""
    if thing.kind != known.kind:
        return False
    asked = ((thing.colour, known.colour), (thing.accent, known.accent), (thing.place, known.place))
    return all(wanted is None or wanted == had for wanted, had in asked)


def _read_clause(words: list[str], said: Description, place: str | None) -> str | None:
    """Parse one clause into ``said``. ``place`` is a place that still waits for its thing; returns the one that waits
    afterwards.

    A color belongs to the thing or roof after it, or at the end of a clause to the thing before it. A place belongs to
    the thing before it in the clause, else to the next one, else to the last thing of an earlier clause.
    """
    group = said.things[-1:]  # what was named last, here or in an earlier clause: one thing, or several of a kind
    own, colour, accent, count = False, None, None, 1
    for word in words:
        if word in COLOURS:
            colour = word
        elif is_number(word):
            count = LEXICON.count(word)
        elif word in KINDS:
            group, own = [Thing(word, colour, accent, place if not number else None) for number in range(count)], True
            said.things += group
            colour, accent, place, count = None, None, None, 1
        elif word == "roofed":
            colour, accent = None, colour
        elif word == "roof":
            for thing in group if colour else ():
                thing.accent = colour
            colour = None
        elif word in PLACES:
            if not (own and _stands(group, word)):
                place = word
        elif word in LIGHTS:
            said.light, colour = word, None
        elif word in GROUNDS:
            said.ground, colour = word, None
    if place and _stands(group, place):
        place = None
    for thing in group:
        thing.colour = thing.colour or colour
    return place


def _stands(group: list[Thing], place: str) -> bool:
    """Give ``place`` to the first of a group, or to all for "ahead". False if there is no thing without a place."""
    if not group or group[0].place:
        return False
    for thing in group if place == "ahead" else group[:1]:
        thing.place = place
    return True
