"""Where the reading of a clause has come to: the word that is read, and those around it. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from model.words.clauses import CHANGES, DETERMINERS, LINKS, LISTED, OWNS, PREPOSITIONS, RELATIONS, VERBS, Clause


class Cursor:
    """Goes through the words of ``clause``. last: the word before that is no link, "" at the beginning. owns: whether
    the words before said "with" or "has", and no preposition after it. after_verb: whether they said that something is,
    or becomes, so. denied: the kind, roof or "one" that the clause denies before it says what is meant."""

    def __init__(self, clause: Clause, denied: str = "") -> None:
        self.clause, self.denied = clause, denied
        self.last, self.owns, self.after_verb = "", False, False
        self._at = 0

    def words(self) -> Iterator[str]:
        """The words in canonical form, one after the other; meanwhile the cursor stands at the word."""
        for at, word in enumerate(self.clause.words):
            self._at = at
            self.owns = (self.owns or word in OWNS) and word not in PREPOSITIONS
            yield word
            self.after_verb = self.after_verb or word in CHANGES or word in VERBS
            self.last = self.last if word in LINKS or word == LISTED else word

    @property
    def word(self) -> str:
        """The word in canonical form."""
        return self.clause.words[self._at]

    @property
    def spelled(self) -> str:
        """The word as it is spelled."""
        return self.clause.spelled[self._at]

    @property
    def following(self) -> str:
        """The next word in canonical form, "" at the end."""
        return self.clause.word(self._at + 1)

    def before(self, distance: int = 1) -> str:
        """The word so many words before, "" beyond the beginning."""
        return self.clause.word(self._at - distance)

    @property
    def in_list(self) -> bool:
        """Whether the word is part of a list, as each color of "red and blue roofs" is."""
        return LISTED in (self.following, self.before())

    def names_thing(self, distance: int) -> bool:
        """Whether the words from so many words after name a kind, as "the red mill" does."""
        at = self._at + distance + (self.clause.word(self._at + distance) in DETERMINERS)
        return self.clause.word(at) in self.clause.classes.kinds or (
            at < len(self.clause.words) and self.clause.heads[at]
        )

    @property
    def ends_color(self) -> bool:
        """Whether no color before the word describes what follows it; one does in "red on the roof"."""
        ends = self.word in (*DETERMINERS, *PREPOSITIONS) or self.spelled in RELATIONS
        return ends and "roof" not in (self.following, self.clause.word(self._at + 2))

    @property
    def heads(self) -> bool:
        """Whether the word describes a kind that follows."""
        return self.clause.heads[self._at]

    @property
    def heads_one(self) -> bool:
        """Whether the word describes a "one" that follows."""
        return self.clause.heads_one[self._at]
