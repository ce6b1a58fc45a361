"""What a prompt of the second world says: light, weather, ground, and things with colors and places. No torch.

As in model/words/grammar.py, a few rules decide which color belongs to which thing, so that the model receives phrases,
not words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from model.words.lexicon import affirmed, is_number
from model.words.vocabulary2 import CANONICAL, COLOURS, DISTANCES, GROUNDS, KINDS, LEXICON, LIGHTS, PLACES, WEATHERS


@dataclass
class Thing:
    """A thing as one phrase describes it; None: not mentioned."""

    kind: str
    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None


@dataclass
class Description:
    """Everything that a prompt says. ``later`` is the light that the present one turns into."""

    light: str | None = None
    weather: str | None = None
    ground: str | None = None
    later: str | None = None
    things: list[Thing] = field(default_factory=list)


@dataclass
class _Pending:
    """Words of a clause that still wait for their thing."""

    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None
    count: int = 1


_BREAK = re.compile(r"[,;.:!?]|\band\b")


def describe(prompt: str) -> Description:
    """Parse a prompt clause by clause. Unknown and negated words are ignored; a later light or ground replaces an
    earlier one."""
    said, waiting = Description(), _Pending()
    for clause in _BREAK.split(affirmed(prompt)):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\d+", clause)]
        waiting = _read_clause(words, said, waiting)
    return said


def names_anew(before: str, after: str) -> bool:
    """Whether ``after`` names a thing that ``before`` does not name with the same colours and place."""
    known = describe(before).things
    return any(not any(_repeats(thing, other) for other in known) for thing in describe(after).things)


def _repeats(thing: Thing, known: Thing) -> bool:
    """Whether ``thing`` asks for nothing that the known one did not ask for; attributes that are not mentioned match
    anything."""
    if thing.kind != known.kind:
        return False
    return all(
        wanted is None or wanted == getattr(known, name)
        for name in ("colour", "accent", "place", "distance")
        for wanted in (getattr(thing, name),)
    )


def _read_clause(words: list[str], said: Description, carried: _Pending) -> _Pending:
    """Parse one clause and return what still waits for a thing of the next one: at most a place.

    A color belongs to the thing or roof after it, or at the end of a clause to the thing before it. A place belongs to
    the thing before it in the clause, else to the next one, else to the last thing of an earlier clause.
    """
    group = said.things[-1:]  # what colors and places refer to: this clause's things, else an earlier one's last
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
    """Parse a word of light, weather or ground. Returns whether the light that the present one turns into is still to
    come."""
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
    """Give a pending attribute to all things of a group. False if there is nothing to give, or the first thing already
    has it."""
    if not value or not group or getattr(group[0], role):
        return False
    for thing in group:
        setattr(thing, role, value)
    return True


def _settle(group: list[Thing], waiting: _Pending) -> _Pending:
    """At the end of a clause, give pending words to the thing before them; returns those that found none."""
    left = _Pending()
    for role in ("place", "distance", "colour"):
        value = getattr(waiting, role)
        if value and not _fill(group, role, value) and role != "colour":
            setattr(left, role, value)
    return left
