"""Reads prompts by a few rules: which color, roof and place belong to which thing. No torch.

A model receives phrases, not words: attention layers would need far more training to bind words than to draw
(docs/log.md). Each world has its own ``Grammar`` (grammar.py, grammar2.py), which differs only in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from model.words.lexicon import Lexicon, affirmed, clauses, is_number


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
    ground: str | None = None
    things: list[Thing] = field(default_factory=list)
    weather: str | None = None
    later: str | None = None


@dataclass
class _Pending:
    """Words of a clause that still wait for their thing; ``count`` is None if no number or article was said."""

    colour: str | None = None
    accent: str | None = None
    place: str | None = None
    distance: str | None = None
    count: int | None = None


ATTRIBUTES = ("colour", "accent", "place", "distance")
_ONE, _IS = ("a", "an"), ("is", "are", "was", "were")


@dataclass(frozen=True)
class Grammar:
    """How one world's prompts are read. alone: places that only one of several things of a phrase can take."""

    lexicon: Lexicon
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    lights: tuple[str, ...]
    grounds: tuple[str, ...]
    places: tuple[str, ...]
    weathers: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    def describe(self, prompt: str) -> Description:
        """Parse a prompt clause by clause. Unknown and negated words are ignored; a later light or ground replaces an
        earlier one."""
        said, waiting = Description(), _Pending()
        for clause in clauses(affirmed(prompt)):
            waiting = self._read_clause(self.lexicon.words(clause), said, waiting)
        return said

    def names_anew(self, before: str, after: str) -> bool:
        """Whether ``after`` names a thing that ``before`` does not name with the same colours and place."""
        return bool(self.new_things(before, after))

    def new_things(self, before: str, after: str) -> list[Thing]:
        """The things that ``after`` names, and ``before`` does not with the same colours and place."""
        known = self.describe(before).things
        return [thing for thing in self.describe(after).things if not any(_repeats(thing, other) for other in known)]

    def _read_clause(self, words: list[str], said: Description, carried: _Pending) -> _Pending:
        """Parse one clause and return what still waits for a thing of the next one: at most a place.

        A color belongs to the thing or roof after it, after "roof" or "roof is" to the roof, and at the end of a clause
        to the thing before it. A place belongs to the thing before it in the clause, else to the next one, else to the
        last thing of an earlier clause. A plural without a number asks for two.
        """
        group = said.things[-1:]  # what colors and places refer to: this clause's things, else an earlier one's last
        own, turning, last = False, False, ""
        waiting = _Pending(place=carried.place, distance=carried.distance)
        for spelled in words:
            word = self.lexicon.canonical.get(spelled, spelled)
            if word in self.colours:
                if not (last == "roof" and self._give(group, "accent", word)):
                    waiting.colour = word
            elif is_number(word) or word in _ONE:
                waiting.count = 1 if word in _ONE else self.lexicon.count(word)
            elif word in self.kinds:
                group, own = self._named(word, waiting, 2 if spelled in self.lexicon.plurals else 1), True
                said.things += group
                waiting = _Pending()
            elif word == "roofed":
                waiting.colour, waiting.accent = None, waiting.colour
            elif word == "roof":
                self._give(group, "accent", waiting.colour)
                waiting.colour = None
            elif word in self.places or word in self.distances:
                role = "place" if word in self.places else "distance"
                if not (own and self._give(group, role, word)):
                    setattr(waiting, role, word)
            elif word == "turning" and spelled in self.lexicon.canonical:
                turning = True
            else:
                turning = self._read_setting(word, said, waiting, turning)
            last = last if word in _IS else word
        return self._settle(group, waiting)

    def _named(self, kind: str, waiting: _Pending, usual: int) -> list[Thing]:
        """As many things as were asked for, ``usual`` if no number was said, with the words that waited for them."""
        first = Thing(kind, waiting.colour, waiting.accent, waiting.place, waiting.distance)
        other = replace(first, place=None) if first.place in self.alone else first
        return [first, *(replace(other) for _ in range((waiting.count or usual) - 1))]

    def _read_setting(self, word: str, said: Description, waiting: _Pending, turning: bool) -> bool:
        """Parse a word of light, weather or ground. Returns whether the light that the present one turns into is still
        to come."""
        if word in self.lights and turning and said.light:
            said.later, turning = word, False
        elif word in self.lights:
            said.light = word
        elif word in self.weathers:
            said.weather = word
        elif word in self.grounds:
            said.ground = word
        else:
            return turning
        waiting.colour = None
        return turning

    def _give(self, group: list[Thing], role: str, value: str | None) -> bool:
        """Give an attribute to all things of a group, or to the first if only one can have it. False if there is
        nothing to give, or the first thing already has it."""
        if not value or not group or getattr(group[0], role):
            return False
        for thing in group[:1] if value in self.alone else group:
            setattr(thing, role, value)
        return True

    def _settle(self, group: list[Thing], waiting: _Pending) -> _Pending:
        """At the end of a clause, give pending words to the thing before them; returns those that found none."""
        left = _Pending()
        for role in ("place", "distance", "colour"):
            value = getattr(waiting, role)
            if value and not self._give(group, role, value) and role != "colour":
                setattr(left, role, value)
        return left


def _repeats(thing: Thing, known: Thing) -> bool:
    """Whether ``thing`` asks for nothing that ``known`` did not ask for; attributes that are not mentioned match
    anything."""
    if thing.kind != known.kind:
        return False
    return all(getattr(thing, name) in (None, getattr(known, name)) for name in ATTRIBUTES)
