"""What a prompt of the second world says: light, weather, ground, and things with colours and places. No torch.

As in model/grammar.py, which colour belongs to which thing is settled here by a few rules, so that the model is given
phrases and not words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from model.lexicon import affirmed, is_number
from model.vocabulary2 import CANONICAL, COLOURS, DISTANCES, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES, WEATHERS


@dataclass
class Thing:
    """What one phrase says of a thing; None where it is silent."""

    kind: str
    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None


@dataclass
class Description:
    """later: the light that the present one turns into."""

    light: str | None = None
    weather: str | None = None
    ground: str | None = None
    later: str | None = None
    things: list[Thing] = field(default_factory=list)


@dataclass
class _Pending:
    """What a clause has said that still waits for its thing."""

    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None
    count: int = 1


_BREAK = re.compile(r"[,;.:!?]|\band\b")


def describe(prompt: str) -> Description:
    """Read a prompt clause by clause; unknown words and what is negated are left out, a later light or ground wins."""
    said, waiting = Description(), _Pending()
    for clause in _BREAK.split(affirmed(prompt)):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\d+", clause)]
        waiting = _read_clause(words, said, waiting)
    return said


def names_anew(before: str, after: str) -> bool:
    """Whether ``after`` names a thing, in a colour or at a place, that ``before`` does not name like that."""
    known = describe(before).things
    return any(not any(_repeats(thing, other) for other in known) for thing in describe(after).things)


def _repeats(thing: Thing, known: Thing) -> bool:
    """Whether a phrase asks for nothing that an earlier one did not ask for; where it is silent, anything will do."""
    if thing.kind != known.kind:
        return False
    return all(
        wanted is None or wanted == getattr(known, name)
        for name in ("colour", "accent", "place", "distance")
        for wanted in (getattr(thing, name),)
    )


def _read_clause(words: list[str], said: Description, carried: _Pending) -> _Pending:
    """Reads one clause and returns what still waits for a thing of the next one: a place at most.

    A colour belongs to the thing or roof after it, at a clause's end to the thing before it; a place to the thing
    before it in the clause, else to the next one, else to the last one of an earlier clause.
    """
    group = said.things[-1:]  # what a colour or place speaks of: of this clause, else the last of an earlier one
    own, turning = False, False
    waiting = _Pending(place=carried.place, distance=carried.distance)
    for word in words:
        if word in COLOURS:
            waiting.colour = word
        elif is_number(word):
            waiting.count = LEXICON.count(word)
        elif word in KINDS:
            thing = Thing(word, waiting.colour, waiting.accent, waiting.place, waiting.distance)
            group, own, waiting = [thing, *(replace(thing) for _ in range(waiting.count - 1))], True, _Pending()
            said.things += group
        elif word == "roofed":
            waiting.colour, waiting.accent = None, waiting.colour
        elif word == "roof":
            _fill(group, "accent", waiting.colour)
            waiting.colour = None
        elif word in PLACES or word in DISTANCES:
            role = "place" if word in PLACES else "distance"
            if not (own and _fill(group, role, word)):
                setattr(waiting, role, word)
        elif word == "turning":
            turning = True
        else:
            turning = _read_setting(word, said, waiting, turning)
    return _settle(group, waiting)


def _read_setting(word: str, said: Description, waiting: _Pending, turning: bool) -> bool:
    """Reads a word of light, weather or ground; returns whether a light that is being turned to is still to come."""
    if word in LIGHTS and turning and said.light:
        said.later, turning = word, False
    elif word in LIGHTS:
        said.light = word
    elif word in WEATHERS:
        said.weather = word
    elif word in GROUNDS:
        said.ground = word
    else:
        return turning
    waiting.colour = None
    return turning


def _fill(group: list[Thing], role: str, value: str | None) -> bool:
    """Give all of a group what its first is silent about; False where there is nothing to give or no one to take it."""
    if not value or not group or getattr(group[0], role):
        return False
    for thing in group:
        setattr(thing, role, value)
    return True


def _settle(group: list[Thing], waiting: _Pending) -> _Pending:
    """At a clause's end what waits goes to the thing before; returns what found none."""
    left = _Pending()
    for role in ("place", "distance", "colour"):
        value = getattr(waiting, role)
        if value and not _fill(group, role, value) and role != "colour":
            setattr(left, role, value)
    return left
