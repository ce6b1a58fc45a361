"""What a prompt says: light, ground, and things, each with its colours and its place. No torch.

The model is given phrases, not words: which colour belongs to which thing is settled here, by a few rules, instead of
by attention layers that would need far more training than drawing needs (docs/log.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from model.lexicon import affirmed, is_number
from model.vocabulary import CANONICAL, COLOURS, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES

IN_SIGHT = ("left", "middle", "right")  # places of the first picture


@dataclass
class Thing:
    """What one phrase says of a landmark; None where it is silent."""

    kind: str
    colour: str | None = None
    accent: str | None = None
    place: str | None = None


@dataclass
class Description:
    light: str | None = None
    ground: str | None = None
    things: list[Thing] = field(default_factory=list)


def describe(prompt: str) -> Description:
    """Read a prompt clause by clause; unknown words and what is negated are left out, a later light or ground wins."""
    said, place = Description(), None
    for clause in re.split(r"[,;.:!?]|\band\b", affirmed(prompt)):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\d+", clause)]
        place = _read_clause(words, said, place)
    return said


def arranged(said: Description) -> Description:
    """The same with a place for each of several things that have none, while there are free ones: things that may stand
    anywhere would be drawn at one place, and one of them lost."""
    free = [place for place in IN_SIGHT if all(thing.place != place for thing in said.things)]
    homeless = [thing for thing in said.things if thing.place is None]
    if len(said.things) < 2 or not 0 < len(homeless) <= len(free):
        return said
    picked = {1: free[:1], 2: [free[0], free[-1]]}.get(len(homeless), free)
    homes = {id(thing): place for thing, place in zip(homeless, picked, strict=True)}
    things = [replace(thing, place=thing.place or homes[id(thing)]) for thing in said.things]
    return replace(said, things=things)


def names_anew(before: str, after: str) -> bool:
    """Whether ``after`` names a thing, in a colour or at a place, that ``before`` does not name like that."""
    known = describe(before).things
    return any(not any(_repeats(thing, other) for other in known) for thing in describe(after).things)


def _repeats(thing: Thing, known: Thing) -> bool:
    """Whether a phrase asks for nothing that an earlier one did not ask for; where it is silent, anything will do."""
    if thing.kind != known.kind:
        return False
    asked = ((thing.colour, known.colour), (thing.accent, known.accent), (thing.place, known.place))
    return all(wanted is None or wanted == had for wanted, had in asked)


def _read_clause(words: list[str], said: Description, place: str | None) -> str | None:
    """Returns a place that still waits for its thing, as it takes the one of the clause before.

    A colour belongs to the thing or roof after it, at a clause's end to the thing before it; a place to the thing
    before it in the clause, else to the next one, else to the last one of an earlier clause.
    """
    group = said.things[-1:]  # what was named last, here or in an earlier clause: one thing, or several alike
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
    """Give the first of a group its place; ahead there is room for all. False where nobody takes it."""
    if not group or group[0].place:
        return False
    for thing in group if place == "ahead" else group[:1]:
        thing.place = place
    return True
