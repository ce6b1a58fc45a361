"""Reads one prompt clause by clause: which color, roof and place belong to which thing. No torch."""

from __future__ import annotations

from dataclasses import replace

from model.words.clauses import ENDS_COLOR, LISTED, ONE, PLURAL_VERBS, VERBS, Clause, Word, WordClasses, clauses
from model.words.cursor import Cursor
from model.words.description import Description
from model.words.ignored import NO_THING, ONE_COLOUR, Ignored
from model.words.negation import MARK
from model.words.nouns import Nouns
from model.words.places import Places
from model.words.pronouns import Pronouns
from model.words.references import Named
from model.words.roofs import Roofs
from model.words.setting import Setting
from model.words.subject import Subject
from model.words.waiting import NEW, Modifiers, Waiting


class Reader:
    """The state of reading one prompt: leads each word to those that read its sort.

    A color belongs to the thing or roof after it, after "roof" or "roof is" to the roof, and at the end of a clause to
    the thing before it. A place belongs to the thing before it in the clause, else to the next one, else to a thing of
    an earlier clause. A list of colors gives one to each of several things. Whatever finds no thing is said in
    ``Description.ignored``.
    """

    def __init__(self, words: WordClasses) -> None:
        self._words = words
        self._ignored = Ignored()
        self._named = Named()
        self._waiting = Waiting(self._ignored)
        self._setting = Setting(words, self._ignored)
        self._subject = Subject(words, self._named, self._ignored)
        self._nouns = Nouns(words, self._named, self._waiting, self._subject, self._ignored)
        self._places = Places(words, self._waiting, self._subject, self._ignored)
        self._roofs = Roofs(words, self._waiting, self._subject, self._ignored)
        self._pronouns = Pronouns(words, self._named, self._waiting, self._subject, self._nouns, self._roofs)
        self._strange = False  # whether the clause has a word that says nothing known, after its last color
        self._unknown = False  # the same, anywhere in the clause

    def read(self, prompt: str) -> Description:
        """Unknown and negated words are ignored; a later light or ground replaces an earlier one."""
        denied = ""
        for clause in clauses(self._words.lexicon.affirmed(prompt), self._words):
            cursor = Cursor(clause, denied if clause.word(0) == "but" else "")
            self._clause(cursor)
            denied = cursor.denied
        self._end()
        said = self._setting
        return Description(
            said.light, said.ground, self._named.things, said.weather, said.later, self._ignored.sentences
        )

    def _end(self) -> None:
        """The prompt ends: what still waits is said of things before, "two houses, a red and a blue", or told."""
        for each in self._waiting.take_shared(wanted=len(self._subject.group) > 1):
            for role, said in each.said.items():
                if not self._subject.give(role, said, each.count):
                    self._ignored.ignore(said[1], NO_THING)
        self._places.end()
        self._waiting.end()
        self._roofs.end(things=bool(self._named.things))

    # ---- one clause

    def _clause(self, cursor: Cursor) -> None:
        self._begin(cursor.clause)
        listed: list[Word] = []
        for word in cursor.words():
            if word in self._words.colours and cursor.in_list:
                listed.append((word, cursor.spelled))
                if cursor.following != LISTED:
                    self._list(listed, cursor)
                    listed = []
            else:
                self._word(cursor)
        self._settle(cursor)
        self._subject.end_clause(cursor.clause)

    def _begin(self, clause: Clause) -> None:
        self._subject.begin_clause(clause)
        self._roofs.begin_clause()
        self._setting.begin_clause()
        self._strange = self._unknown = False

    def _word(self, cursor: Cursor) -> None:
        word, spelled, following = cursor.word, cursor.spelled, cursor.following
        if cursor.ends_color:
            self._end_color(cursor)
        if spelled.startswith(MARK):
            cursor.denied = spelled.removeprefix(MARK) or cursor.denied
            if cursor.denied == "roof":
                self._roofs.mention()
        elif spelled == "dark" and following in self._words.colours:
            self._ignored.ignore(spelled, "shades cannot be chosen")
        elif word in self._words.colours:
            self._colour((word, spelled), cursor)
        elif spelled == "s" and following in VERBS and self._roofs.mentioned:
            self._roofs.roof("roof", cursor.last)  # "the mill's cap is red, the tower's is blue"
        elif not (
            self._places.read_other_side(cursor)
            or self._pronouns.read(cursor)
            or self._waiting.determine(cursor)
            or self._noun(cursor)
        ):
            self._attribute_or_setting(cursor)

    def _noun(self, cursor: Cursor) -> bool:
        self._places.meet(cursor)
        return self._nouns.read(cursor)

    def _end_color(self, cursor: Cursor) -> None:
        """The color before describes nothing that follows, as in "a house painted red behind a mill": it is that of the
        thing before, or of an unknown word, which is told."""
        if self._strange:
            self._waiting.take_colour()
        elif self._subject.own or (self._subject.group and cursor.after_verb and not self._unknown):
            self._roofs.give_color_before()

    def _colour(self, colour: Word, cursor: Cursor) -> None:
        if cursor.following == "roofed":
            self._waiting.wait("accent", colour)
        elif not (cursor.last == "roof" and self._subject.give("accent", colour)):
            self._waiting.wait("colour", colour)
            self._strange = False

    def _list(self, listed: list[Word], cursor: Cursor) -> None:
        """Give the colors of a list to several things, or to as many of the next phrase."""
        of_roofs = not {"roof", "roofed"}.isdisjoint((cursor.following, cursor.last)) or self._roofs.bare
        role = "accent" if of_roofs else "colour"
        if self._subject.group:
            self._subject.deal(role, listed)
        else:
            self._waiting.wait_list(role, listed)

    def _attribute_or_setting(self, cursor: Cursor) -> None:
        word, spelled, words = cursor.word, cursor.spelled, self._words
        if word in ENDS_COLOR and self._subject.group:
            self._roofs.give_color_before()
        if word in PLURAL_VERBS and self._subject.own and cursor.clause.before == "and":
            self._subject.join()
        if word == "roofed":
            self._roofs.roofed(cursor.last)
        elif word == "roof":
            self._roofs.roof(spelled, cursor.last)
        elif word in words.places:
            self._places.read(cursor)
        elif word in words.distances:
            self._places.give_or_wait("distance", (word, spelled))
        elif spelled in ("wall", "walls"):
            self._roofs.wall(spelled)
        elif word == "turning" and spelled in words.lexicon.canonical:
            self._setting.turn()
        elif self._setting.read(word, spelled):
            self._end_of_setting(word)
        else:
            strange = not words.lexicon.is_silent(word)
            self._strange, self._unknown = self._strange or strange, self._unknown or strange

    def _end_of_setting(self, word: str) -> None:
        """The article and the color before a word of the setting are no thing's."""
        self._waiting.forget_article()
        colour = self._waiting.take_colour()
        if colour and not self._strange:
            self._setting.colour(word, colour)

    # ---- its end

    def _settle(self, cursor: Cursor) -> None:
        """At the end of a clause, give waiting words to the thing before them. A place or a roof may wait for the next
        thing, and so may a color that begins another phrase."""
        waiting, denied = self._waiting.modifiers, cursor.denied
        if denied in self._words.kinds and not self._subject.own and (waiting.said.get("colour") or waiting.count):
            self._nouns.name(denied, 1)
        ended = self._waiting.end_clause()
        if "roofed" in cursor.clause.words and "accent" in ended.said and self._begins_phrase(ended):
            self._waiting.share(ended.as_item)
            return
        if colour := ended.said.pop("colour", None):
            self._settle_colour(colour, ended, cursor)
        for role, said in ended.said.items():
            if not self._subject.give(role, said, ended.count):
                self._waiting.wait(role, said)

    def _begins_phrase(self, ended: Modifiers) -> bool:
        """Whether a clause without a noun begins a phrase, as "a red" does in "a red and a blue mill"."""
        group = self._subject.group
        return ended.article in NEW or (ended.has_number and len(group) < 2) or not group

    def _is_of_unknown(self, clause: Clause) -> bool:
        """Whether a clause says the color of an unknown thing: "the sky is blue", "a house whose door is blue"."""
        says = (clause.has_verb or clause.changes) and not (self._roofs.bare or self._roofs.bare_wall)
        return self._unknown and says and (not self._subject.own or "whose" in clause.words)

    def _settle_colour(self, colour: Word, ended: Modifiers, cursor: Cursor) -> None:
        group, denied = self._subject.group, cursor.denied
        begins = self._begins_phrase(ended) and denied not in ("roof", *ONE)
        of_roof = self._roofs.bare or denied == "roof"
        if not group and (of_roof or self._roofs.bare_wall):
            self._waiting.wait_list("accent" if of_roof else "colour", [colour])
        elif self._is_of_unknown(cursor.clause):
            self._ignored.ignore(colour[1], NO_THING)
        elif self._strange or (of_roof and self._subject.give("accent", colour)):
            return  # the color of an unknown word, which is told
        elif begins or not group:
            self._waiting.share(replace(ended, said={"colour": colour}).as_item)
        elif not self._subject.give("colour", colour, ended.count):
            self._ignored.ignore(colour[1], ONE_COLOUR)
