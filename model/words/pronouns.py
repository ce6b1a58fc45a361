"""Words that stand for things instead of a noun: "both", "one", "the left one", "another". No torch."""

from __future__ import annotations

from model.words.clauses import ENDS_COLOR, LINKS, ONE, ORDINALS, OWNS, PREPOSITIONS, WordClasses
from model.words.cursor import Cursor
from model.words.description import Thing
from model.words.lexicon import asked_for, is_number
from model.words.nouns import Nouns
from model.words.references import TOGETHER, Named
from model.words.roofs import Roofs
from model.words.subject import Subject
from model.words.waiting import NEW, THE, Waiting

_AT_INDEX = {**ORDINALS, "former": 0, "latter": -1, "last": -1}


class Pronouns:
    """Reads the pronouns of a prompt: each speaks of things that were named before, or names a new one of the last
    kind ("a red house and a blue one")."""

    def __init__(
        self, words: WordClasses, named: Named, waiting: Waiting, subject: Subject, nouns: Nouns, roofs: Roofs
    ) -> None:
        self._words, self._named, self._waiting = words, named, waiting
        self._subject, self._nouns, self._roofs = subject, nouns, roofs

    def read(self, cursor: Cursor) -> bool:
        """Speak of what the word stands for; False if it is no pronoun."""
        word, following = cursor.word, cursor.following
        if cursor.heads:
            return False
        if word in TOGETHER and following not in NEW and cursor.before() != "of":
            return self._nouns.speak_of(self._named.together(word))
        if self._waiting.modifiers.is_definite and self._nouns.speak_of(self._definite(cursor)):
            if word in self._words.places:
                self._subject.give("place", (word, cursor.spelled))
            return True
        if word in ("another", "other") and self._subject.group and self._stands_alone(cursor):
            return self._another(word)
        if word in ONE:
            return self._one(cursor)
        if is_number(word) and following and self._named.has_several and self._is_said_of(following):
            return self._nouns.speak_of(self._named.next(asked_for(word)))
        return False

    def _definite(self, cursor: Cursor) -> list[Thing]:
        """What "the first", "the other", "the left" and "the one on the left" stand for."""
        word, following, before, places = cursor.word, cursor.following, cursor.before(), cursor.clause.places
        adjacent = before in THE and following not in ONE
        if word in _AT_INDEX and before in THE:
            return self._named.at_index(_AT_INDEX[word])
        if word == "other" and before in THE and following != "side":
            return self._named.others()
        if word in self._words.places and adjacent and cursor.before(2) not in PREPOSITIONS:
            return self._named.at_place(word) if self._is_said_of(following) else []
        if word not in ONE:
            return []
        if colored := self._named.colored(self._waiting.modifiers.attributes.get("colour", "")):
            return colored
        if len(places) == 1:
            return self._named.at_place(*places)
        return self._named.next() if self._named.has_several else []

    def _stands_alone(self, cursor: Cursor) -> bool:
        """Whether "another" or "the other" stands for a thing itself, not before "one"."""
        if cursor.word == "other" and not self._waiting.modifiers.is_definite:
            return False
        return cursor.following in ONE or (self._is_said_of(cursor.following) and not cursor.heads_one)

    def _another(self, word: str) -> bool:
        """Another of the several things that are spoken of, else a new one of the last kind."""
        if not (self._named.is_choosing and self._nouns.speak_of(self._named.next())):
            self._waiting.wait_other(word)
            self._nouns.name(self._subject.group[-1].kind, 1)
        return True

    def _one(self, cursor: Cursor) -> bool:
        """Whether "one" stands for one of several things, a roof, or a new thing of the last kind ("a blue one")."""
        modifiers, denied, kind = self._waiting.modifiers, cursor.denied, self._kind(cursor.denied)
        described = not {"colour", "accent"}.isdisjoint(modifiers.said) or modifiers.article in NEW
        if denied in ONE or (self._subject.own and cursor.last in (*_AT_INDEX, "other", "another")):
            return True  # the thing that was spoken of just now
        if described and (denied == "roof" or ((cursor.owns or self._subject.referred) and self._roofs.mentioned)):
            self._roofs.roof("roof", cursor.last)
        elif not described and self._is_one_of(cursor):
            return self._nouns.speak_of(self._named.next())
        elif described and self._is_choice(cursor):
            return self._nouns.speak_of(self._named.next(1 if cursor.word == "one" else len(self._named.things)))
        elif kind and not described and cursor.following in (*OWNS, *PREPOSITIONS):
            self._nouns.name(kind, 1)
        elif kind and (described or denied or modifiers.is_definite):
            self._nouns.name(kind, 2 if cursor.word == "ones" else 1)
        else:
            return False
        return True

    def _kind(self, denied: str) -> str:
        """The kind that "one" stands for, "" if none was named."""
        if denied in self._words.kinds:
            return denied
        return self._subject.group[-1].kind if self._subject.group else ""

    def _is_one_of(self, cursor: Cursor) -> bool:
        """Whether "one" is one of several things, and not at another place than they are."""
        place = self._named.following.place if self._named.following else None
        elsewhere = place is not None and bool(cursor.clause.places) and place not in cursor.clause.places
        return self._named.has_several and self._is_said_of(cursor.following) and not elsewhere

    def _is_choice(self, cursor: Cursor) -> bool:
        """Whether "a red one" is one of several things that have no color yet: "two houses, a red one and ..."."""
        anew = cursor.clause.before != "and" and not self._subject.own
        begun = self._named.is_choosing or (self._named.has_several and anew)
        following = self._named.following
        return begun and "colour" in self._waiting.modifiers.said and following is not None and not following.colour

    def _is_said_of(self, following: str) -> bool:
        words = self._words
        said_of = (*words.colours, *words.places, *LINKS, *ENDS_COLOR, *ONE, "on", "at", "to", "roof", "")
        return following in said_of
