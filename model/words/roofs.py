"""Roofs and walls: the parts of a thing that have colors. No torch."""

from __future__ import annotations

from model.words.clauses import WordClasses
from model.words.ignored import NO_THING, ONE_COLOUR, Ignored
from model.words.subject import Subject
from model.words.waiting import Waiting


class Roofs:
    """Reads what a prompt says of roofs and walls. mentioned: whether it spoke of a roof, be it negated. bare and
    bare_wall: whether this clause named a roof or a wall whose color is still to come."""

    def __init__(self, words: WordClasses, waiting: Waiting, subject: Subject, ignored: Ignored) -> None:
        self._words, self._waiting, self._subject, self._ignored = words, waiting, subject, ignored
        self.mentioned = self.bare = self.bare_wall = False
        self._spelled = ""  # the roof that was said last

    def begin_clause(self) -> None:
        """A clause begins."""
        self.bare = self.bare_wall = False

    def end(self, things: bool) -> None:
        """The prompt ends. things: whether it names any that may have a roof."""
        if self._spelled and not things:
            self._ignored.ignore(self._spelled, NO_THING)

    def mention(self) -> None:
        """The prompt speaks of a roof, or of one that it denies."""
        self.mentioned = True

    def roofed(self, before: str) -> None:
        """ "Red slate-roofed": the color that waits is the roof's, unless the word ``before`` is a color."""
        if before not in self._words.colours and (colour := self._waiting.take_colour()):
            self._waiting.wait("accent", colour)

    def roof(self, spelled: str, before: str) -> None:
        """A roof, of the color that waits; else its color is to come, unless a color is the word ``before``."""
        self._spelled = spelled
        self.mention()
        if not (colour := self._waiting.take_colour()):
            self.bare = before not in self._words.colours
        elif not self._subject.give("accent", colour, self._every(spelled)):
            self._waiting.wait("accent", colour)

    def wall(self, spelled: str) -> None:
        """A wall: its color is the thing's."""
        colour = self._waiting.modifiers.said.get("colour")
        if colour and self._subject.give("colour", colour, self._every(spelled)):
            self._waiting.take_colour()
        self.bare_wall = not self._subject.group or not colour

    def _every(self, spelled: str) -> int | None:
        """Of how many things of the group a plural speaks; None for a singular."""
        return len(self._subject.group) if spelled.endswith("s") else None

    def give_color_before(self) -> None:
        """Give a color to what is before it: "a house in red with ...", "a house with a roof in blue that ..."."""
        if colour := self._waiting.take_colour():
            if not self._subject.give("accent" if self.bare else "colour", colour):
                self._ignored.ignore(colour[1], ONE_COLOUR)
            self.bare = False
