"""What a prompt of the second world says: light, weather, ground, and things with colours and places. No torch.

As in model/grammar.py, which colour belongs to which thing is settled here by a few rules, so that the model is given
phrases and not words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from model.camera import without_camera
from model.vocabulary2 import (
    CANONICAL,
    COLOURS,
    DISTANCES,
    GROUNDS,
    KINDS,
    LIGHTS,
    NEGATIONS,
    NUMBERS,
    PLACES,
    WEATHERS,
    suggestion,
    unknown_words,
)


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
_NEGATED = re.compile(rf"\b(?:{'|'.join(sorted(NEGATIONS))})\b[^,;.:!?]*?(?=[,;.:!?]|\band\b|\bbut\b|$)")


def describe(prompt: str) -> Description:
    """Read a prompt clause by clause; unknown words and what is negated are left out, a later light or ground wins."""
    said, waiting = Description(), _Pending()
    text = _NEGATED.sub(" ", without_camera(prompt).lower())
    for clause in _BREAK.split(text):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\b[2-4]\b", clause)]
        waiting = _read_clause(words, said, waiting)
    return said


def complaints(prompt: str) -> list[str]:
    """One sentence for all that the model will not do: unknown words with the known word meant, and negations."""
    told = []
    for word in unknown_words(prompt):
        meant = suggestion(word)
        told.append(f"the model does not know '{word}'" + (f"; did you mean '{meant}'?" if meant else ""))
    for negated in _NEGATED.findall(without_camera(prompt).lower()):
        told.append(
            f"'{negated.strip()}' is left out: the model draws what is named, and cannot be told what not to draw"
        )
    return told


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
    before = said.things[-1] if said.things else None
    thing: Thing | None = None
    waiting = _Pending(place=carried.place, distance=carried.distance)
    turning = False
    for word in words:
        if word in COLOURS:
            waiting.colour = word
        elif word in NUMBERS or word in ("2", "3", "4"):
            waiting.count = NUMBERS.get(word) or int(word)
        elif word in KINDS:
            thing = Thing(word, waiting.colour, waiting.accent, waiting.place, waiting.distance)
            said.things += [thing, *(replace(thing) for _ in range(waiting.count - 1))]
            waiting = _Pending()
        elif word == "roofed":
            waiting.colour, waiting.accent = None, waiting.colour
        elif word == "roof":
            if (owner := thing or before) and waiting.colour:
                for one in _alike(said, owner):
                    one.accent = waiting.colour
            waiting.colour = None
        elif word in PLACES or word in DISTANCES:
            _place(word, thing, waiting)
        elif word == "turning":
            turning = True
        elif word in LIGHTS:
            waiting.colour = None
            if turning and said.light:
                said.later, turning = word, False
            else:
                said.light = word
        elif word in WEATHERS:
            said.weather, waiting.colour = word, None
        elif word in GROUNDS:
            said.ground, waiting.colour = word, None
    return _settle(thing or before, waiting)


def _alike(said: Description, last: Thing) -> list[Thing]:
    """The things that one phrase with a number has named: all at the end that equal the last one."""
    alike: list[Thing] = []
    for thing in reversed(said.things):
        if thing != last:
            break
        alike.append(thing)
    return alike


def _place(word: str, thing: Thing | None, waiting: _Pending) -> None:
    role = "place" if word in PLACES else "distance"
    if thing and not getattr(thing, role):
        setattr(thing, role, word)
    else:
        setattr(waiting, role, word)


def _settle(owner: Thing | None, waiting: _Pending) -> _Pending:
    """At a clause's end what waits goes to the thing before; returns what found none."""
    left = _Pending()
    for role in ("place", "distance", "colour"):
        value = getattr(waiting, role)
        if value and owner and not getattr(owner, role):
            setattr(owner, role, value)
        elif value and role != "colour":
            setattr(left, role, value)
    return left
