"""The things that a clause speaks of, to which its colors and places are given. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from model.words.clauses import Clause, Word, WordClasses
from model.words.description import Thing
from model.words.ignored import NO_THING, Ignored
from model.words.references import LOOKED_AT, Named


class Subject:
    """The things of the last phrase. group: all of them. own: whether the phrase is in this clause. referred: whether
    this clause speaks of things that were named before."""

    def __init__(self, words: WordClasses, named: Named, ignored: Ignored) -> None:
        self._words, self._named, self._ignored = words, named, ignored
        self.group: list[Thing] = []
        self.own = self.referred = self._changes = False
        self._next = 0  # the thing of the group that a later clause speaks of
        self._joined: list[Thing] = []  # of the clauses before, which "and" joins: "a house and a mill are red"

    def begin_clause(self, clause: Clause) -> None:
        """A clause begins; it may go on to speak of the same things."""
        self._joined = self._joined if clause.before in (",", "and") else []
        self.own = self.referred = False
        self._changes = clause.changes

    def end_clause(self, clause: Clause) -> None:
        """A clause ends; the next one may speak of its things as well."""
        self._joined = [*self._joined, *self.group][-LOOKED_AT:] if self.own and not clause.has_verb else []

    def become(self, group: list[Thing], known: bool) -> None:
        """The clause speaks of ``group`` from here on. known: these were named before."""
        self.group, self.own, self._next = group, True, 0
        self.referred = self.referred or known

    def join(self) -> None:
        """The clause speaks of all things of those that it is joined to."""
        self.group = [*self._joined, *self.group]

    def give(self, role: str, said: Word, count: int | None = None) -> bool:
        """Give an attribute to all things of the clause's own phrase, or to the first if only one can have it, or to
        the things of an earlier phrase that the clause speaks of. False if none of them lacks it, unless the clause
        says that their color changes."""
        things = self.group if self.own else self._spoken_of(role, count)
        if self._changes and role in ("colour", "accent"):
            things = things or self.group
        elif things and getattr(things[0], role):
            return False
        if not things:
            return False
        for thing in things[:1] if said[0] in self._words.alone else things:
            if role != "accent" or self.has_roof(thing.kind, said[1]):
                setattr(thing, role, said[0])
        return True

    def _spoken_of(self, role: str, count: int | None) -> list[Thing]:
        """The things of an earlier phrase that a later clause speaks of: "one red, one blue", "both red", "red"."""
        lacking = [at for at, thing in enumerate(self.group) if at >= self._next and not getattr(thing, role)]
        if not lacking:
            return []
        self._next = lacking[0]
        return [self.group[at] for at in lacking[: count or 1]]

    def deal(self, role: str, listed: Sequence[Word]) -> None:
        """One color of ``listed`` to each thing of the group, or of as many as were named before; in turn, if there are
        more things than colors."""
        things = self.group if len(self.group) >= len(listed) else self._named.things[-len(listed) :]
        lacking = [thing for thing in things if not getattr(thing, role) and self._words.may_have(thing.kind, role)]
        for at, thing in enumerate(lacking):
            setattr(thing, role, listed[at % len(listed)][0])
        for _, spelled in listed[len(lacking) :]:
            self._ignored.ignore(spelled, NO_THING)

    def has_roof(self, kind: str, colour: str) -> bool:
        """Whether things of this kind have a roof; if not, its color is told as not drawn."""
        if not (has := self._words.may_have(kind, "accent")):
            self._ignored.ignore(colour, f"a {kind} has one color")
        return has
