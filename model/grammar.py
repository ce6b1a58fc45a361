"""What a prompt says: light, ground, and things, each with its colours and its place. No torch.

The model is given phrases, not words: which colour belongs to which thing is settled here, by a few rules, instead of
by attention layers that would need far more training than drawing needs (docs/log.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from model.camera import without_camera
from model.vocabulary import CANONICAL, COLOURS, GROUNDS, KINDS, LIGHTS, PLACES


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
    """Read a prompt clause by clause; words that the vocabulary lacks are ignored, a later light or ground wins."""
    said, place = Description(), None
    for clause in re.split(r"[,;.:!?]|\band\b", without_camera(prompt).lower()):
        place = _read_clause([CANONICAL[w] for w in re.findall(r"[^\W\d_]+", clause) if w in CANONICAL], said, place)
    return said


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
    before = said.things[-1] if said.things else None
    thing, colour, accent = None, None, None
    for word in words:
        if word in COLOURS:
            colour = word
        elif word in KINDS:
            thing = Thing(word, colour, accent, place)
            said.things.append(thing)
            colour = accent = place = None
        elif word == "roofed":
            colour, accent = None, colour
        elif word == "roof":
            if (owner := thing or before) and colour:
                owner.accent = colour
            colour = None
        elif word in PLACES:
            if thing and not thing.place:
                thing.place = word
            else:
                place = word
        elif word in LIGHTS:
            said.light, colour = word, None
        elif word in GROUNDS:
            said.ground, colour = word, None
    owner = thing or before
    if owner and place and not owner.place:
        owner.place, place = place, None
    if owner and colour and not owner.colour:
        owner.colour = colour
    return place
