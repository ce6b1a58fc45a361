"""Nouns: the things that they name, new ones and those that were named before, with the words that waited for them.
No torch."""

from __future__ import annotations

from dataclasses import replace

from model.words.clauses import WordClasses
from model.words.cursor import Cursor
from model.words.description import Thing
from model.words.ignored import NO_THING, Ignored
from model.words.references import TOGETHER, Named, Reference
from model.words.subject import Subject
from model.words.waiting import Modifiers, Waiting


class Nouns:
    """Reads the nouns of a prompt. A plural without a number asks for two; "a red and a blue house" are two houses;
    "the house" and "both houses" are those that were named before."""

    def __init__(self, words: WordClasses, named: Named, waiting: Waiting, subject: Subject, ignored: Ignored) -> None:
        self._words, self._named, self._waiting, self._subject, self._ignored = words, named, waiting, subject, ignored

    def read(self, cursor: Cursor) -> bool:
        """Name things or speak of known ones; False if the word is no noun."""
        if cursor.word not in self._words.kinds:
            return False
        plural = cursor.spelled in self._words.lexicon.plurals
        if not self.speak_of(self._known(cursor, plural)):
            self.name(cursor.word, 2 if plural else 1)
        return True

    def name(self, kind: str, usual: int) -> None:
        """As many new things as were asked for, ``usual`` if no number was said, with the words that wait for them, and
        those of the colors before ("a red and a blue house", but not "a red and blue house")."""
        modifiers = self._waiting.modifiers
        several = usual > 1 or bool(modifiers.article or modifiers.count)
        shared = self._waiting.take_shared(several and not modifiers.said.keys().isdisjoint(("colour", "accent")))
        modifiers = self._waiting.take()
        group = [thing for each in shared for thing in self._alike(kind, each, 1)]
        group += self._alike(kind, modifiers, 1 if shared else usual)
        self._named.named(group)
        self._subject.become(group, known=False)
        for role, listed in modifiers.lists.items():
            self._subject.deal(role, listed)

    def _alike(self, kind: str, modifiers: Modifiers, usual: int) -> list[Thing]:
        most = self._words.lexicon.most_alike
        if modifiers.count is not None and modifiers.count > most:
            self._ignored.tell(f"'{modifiers.counted}' is too many: the model draws at most {most} of a kind")
        said = modifiers.attributes
        if "accent" in said and not self._subject.has_roof(kind, modifiers.said["accent"][1]):
            del said["accent"]
        first = Thing(kind, **said, other=modifiers.other or None)
        other = replace(first, place=None) if first.place in self._words.alone else first
        return [first, *(replace(other) for _ in range(min(modifiers.count or usual, most) - 1))]

    def _known(self, cursor: Cursor, plural: bool) -> list[Thing]:
        """The things that "the house" or "both houses" refers to; none if they are new."""
        modifiers = self._waiting.modifiers
        together = modifiers.counted in TOGETHER or cursor.last in TOGETHER
        numbered = modifiers.ordinal is not None and not modifiers.article
        if not (together or modifiers.is_definite or numbered):
            return []
        reference = Reference(
            Thing(cursor.word, **modifiers.attributes),
            many=together or plural,
            places=cursor.clause.places,
            ordinal=modifiers.ordinal,
            other=cursor.clause.says_other,
            count=None if together else modifiers.count,
        )
        return self._named.meant(reference)

    def speak_of(self, known: list[Thing]) -> bool:
        """Speak of things that were named before, and give them the words that wait; False if there are none."""
        if not known:
            return False
        modifiers = self._waiting.take()
        self._subject.become(known, known=True)
        self._named.spoken_of(known)
        for role, said in modifiers.said.items():
            if not self._subject.give(role, said) and getattr(known[0], role) != said[0]:
                self._ignored.ignore(said[1], NO_THING)
        return True
