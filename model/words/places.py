"""Places and distances: which thing they are said of. No torch."""

from __future__ import annotations

from model.words.clauses import Word, WordClasses
from model.words.cursor import Cursor
from model.words.ignored import NO_THING, SIDE_BY_SIDE, Ignored
from model.words.subject import Subject
from model.words.waiting import Waiting

_OPPOSITE = {"left": "right", "right": "left"}


class Places:
    """Reads places. A place is of the thing before it in the clause, else of the next one; "left of the mill a house"
    says where the house is, and the mill is passed by."""

    def __init__(self, words: WordClasses, waiting: Waiting, subject: Subject, ignored: Ignored) -> None:
        self._words, self._waiting, self._subject, self._ignored = words, waiting, subject, ignored
        self._last = ""  # the place that was said last
        self._beside: Word | None = None  # a place beside a thing that is still to be named
        self._after: Word | None = None  # a place beside a thing that was named: it is the next one's

    def read(self, cursor: Cursor) -> None:
        """A place."""
        said = cursor.word, cursor.spelled
        self._last = cursor.word
        if cursor.spelled == "beyond" and cursor.names_thing(1):
            self._ignored.ignore(cursor.spelled, SIDE_BY_SIDE)
        elif cursor.following == "of" and cursor.names_thing(2) and not self._subject.own:
            self._beside = None if self._is_of_thing_before(cursor) and self._subject.give("place", said) else said
        else:
            self.give_or_wait("place", said)

    def read_other_side(self, cursor: Cursor) -> bool:
        """ "On the other side" of what was said last; False if the word is not that."""
        if not (cursor.word == "other" and cursor.following == "side" and self._last in _OPPOSITE):
            return False
        self._last = _OPPOSITE[self._last]
        self.give_or_wait("place", (self._last, "other"))
        return True

    def give_or_wait(self, role: str, said: Word) -> None:
        """Give a place or a distance to the thing before it in the clause, else keep it for the next one."""
        if not (self._subject.own and self._subject.give(role, said)):
            self._waiting.wait(role, said)

    def meet(self, cursor: Cursor) -> None:
        """A word that may be a noun: a thing beside another one gets its place, after the other one was passed by."""
        if cursor.word in self._words.kinds:
            if self._after:
                self._waiting.wait("place", self._after)
            self._beside, self._after = None, self._beside

    def end(self) -> None:
        """The prompt ends: a place that is beside a thing, and of no other, is told."""
        if self._after:
            self._ignored.ignore(self._after[1], NO_THING)

    def _is_of_thing_before(self, cursor: Cursor) -> bool:
        """Whether the clause goes on about the thing of an earlier one: "a house, left of the mill"."""
        kinds = sum(word in self._words.kinds for word in cursor.clause.words)
        return kinds == 1 and cursor.clause.before in (",", "and")
