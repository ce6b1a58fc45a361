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
    MOST_ALIKE,
    NEGATIONS,
    NUMBERS,
    PLACES,
    TOO_MANY,
    WEATHERS,
    suggestion,
    unknown_words,
    words_of,
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


_NUMBER = re.compile(rf"\b(?:\d+|{'|'.join(sorted(TOO_MANY | NUMBERS.keys()))})\b")
_BREAK = re.compile(r"[,;.:!?]|\band\b")
_NEGATED = re.compile(rf"\b(?:{'|'.join(sorted(NEGATIONS))})\b[^,;.:!?]*?(?=[,;.:!?]|\band\b|\bbut\b|$)")


def describe(prompt: str) -> Description:
    """Read a prompt clause by clause; unknown words and what is negated are left out, a later light or ground wins."""
    said, waiting = Description(), _Pending()
    text = _NEGATED.sub(" ", without_camera(prompt).lower())
    for clause in _BREAK.split(text):
        words = [CANONICAL.get(word, word) for word in re.findall(r"[^\W\d_]+|\d+", clause)]
        waiting = _read_clause(words, said, waiting)
    return said


def complaints(prompt: str) -> list[str]:
    """One sentence for all that the model will not do: unknown words with the known word meant, what is negated, more
    things of a kind than it draws, and another language."""
    text, unknown = without_camera(prompt).lower(), unknown_words(prompt)
    if len(unknown) > 2 and len(unknown) > len(words_of(prompt)) / 2:
        return [f"the model knows English words only, and none of: {', '.join(unknown)}"]
    told = [_unknown(word) for word in unknown]
    told += [
        f"'{m.strip()}' is left out: only what is named can be drawn, not what is absent"
        for m in _NEGATED.findall(text)
    ]
    told += [
        f"'{m}' is too many: at most {MOST_ALIKE} of a kind are drawn" for m in _NUMBER.findall(text) if _beyond(m)
    ]
    return told


def _unknown(word: str) -> str:
    meant = suggestion(word)
    return f"the model does not know '{word}'" + (f"; did you mean '{meant}'?" if meant else "")


def _beyond(number: str) -> bool:
    return number in TOO_MANY or (number.isdecimal() and int(number) > MOST_ALIKE)


def _count(number: str) -> int:
    """How many things a number asks for, as many as are drawn."""
    if _beyond(number):
        return MOST_ALIKE
    return NUMBERS[number] if number in NUMBERS else max(1, int(number))


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
        elif _NUMBER.fullmatch(word):
            waiting.count = _count(word)
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
