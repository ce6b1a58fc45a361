"""Reads one prompt clause by clause: which color, roof and place belong to which thing. No torch."""

from __future__ import annotations

from model.words.clauses import ENDS_COLOR, LISTED, ONE, PLURAL_VERBS, VERBS, Clause, Word, WordClasses, clauses
from model.words.cursor import Cursor
from model.words.description import Description
from model.words.ignored import ONE_COLOUR, Ignored
from model.words.negation import MARK
from model.words.nouns import Nouns
from model.words.pronouns import Pronouns
from model.words.references import Named
from model.words.roofs import Roofs
from model.words.setting import Setting
from model.words.subject import Subject
from model.words.waiting import NEW, Modifiers, Waiting

_OPPOSITE = {"left": "right", "right": "left"}


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
        self._roofs = Roofs(words, self._waiting, self._subject, self._ignored)
        self._pronouns = Pronouns(words, self._named, self._waiting, self._subject, self._nouns, self._roofs)
        self._placed = ""  # the place that was said last
        self._strange = False  # whether the clause has a word that says nothing known, after its last color

    def read(self, prompt: str) -> Description:
        """Unknown and negated words are ignored; a later light or ground replaces an earlier one."""
        denied = ""
        for clause in clauses(self._words.lexicon.affirmed(prompt), self._words):
            cursor = Cursor(clause, denied if clause.word(0) == "but" else "")
            self._clause(cursor)
            denied = cursor.denied
        self._waiting.end()
        self._roofs.end(things=bool(self._named.things))
        self._waiting.take_shared(wanted=False)
        said = self._setting
        return Description(
            said.light, said.ground, self._named.things, said.weather, said.later, self._ignored.sentences
        )

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
        self._settle(cursor.denied)
        self._subject.end_clause(cursor.clause)

    def _begin(self, clause: Clause) -> None:
        self._subject.begin_clause(clause)
        self._roofs.begin_clause()
        self._setting.begin_clause()
        self._strange = False

    def _word(self, cursor: Cursor) -> None:
        word, spelled, following = cursor.word, cursor.spelled, cursor.following
        if spelled.startswith(MARK):
            cursor.denied = spelled.removeprefix(MARK) or cursor.denied
            if cursor.denied == "roof":
                self._roofs.mention()
        elif spelled == "dark" and following in self._words.colours:
            self._ignored.ignore(spelled, "shades cannot be chosen")
        elif word in self._words.colours:
            self._colour((word, spelled), cursor.last)
        elif spelled == "s" and following in VERBS and self._roofs.mentioned:
            self._roofs.roof("roof", cursor.last)  # "the mill's cap is red, the tower's is blue"
        elif word == "other" and following == "side" and self._placed in _OPPOSITE:
            self._place(_OPPOSITE[self._placed], "other")
        elif not (self._pronouns.read(cursor) or self._waiting.determine(cursor) or self._nouns.read(cursor)):
            self._attribute_or_setting(cursor)

    def _colour(self, colour: Word, before: str) -> None:
        if not (before == "roof" and self._subject.give("accent", colour)):
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
            self._roofs.roofed()
        elif word == "roof":
            self._roofs.roof(spelled, cursor.last)
        elif word in words.places:
            self._place(word, spelled)
        elif word in words.distances:
            self._give_or_wait("distance", (word, spelled))
        elif spelled in ("wall", "walls"):
            self._roofs.wall(spelled)
        elif word == "turning" and spelled in words.lexicon.canonical:
            self._setting.turn()
        elif self._setting.read(word, spelled):
            self._end_of_setting(word)
        else:
            self._strange = self._strange or not words.lexicon.is_silent(word)

    def _place(self, place: str, spelled: str) -> None:
        self._placed = place
        self._give_or_wait("place", (place, spelled))

    def _give_or_wait(self, role: str, said: Word) -> None:
        if not (self._subject.own and self._subject.give(role, said)):
            self._waiting.wait(role, said)

    def _end_of_setting(self, word: str) -> None:
        """The article and the color before a word of the setting are no thing's."""
        self._waiting.forget_article()
        colour = self._waiting.take_colour()
        if colour and not self._strange:
            self._setting.colour(word, colour)

    # ---- its end

    def _settle(self, denied: str) -> None:
        """At the end of a clause, give waiting words to the thing before them. A place or a roof may wait for the next
        thing, and so may a color that begins another phrase."""
        waiting = self._waiting.modifiers
        if denied in self._words.kinds and not self._subject.own and (waiting.said.get("colour") or waiting.count):
            self._nouns.name(denied, 1)
        ended = self._waiting.end_clause()
        if colour := ended.said.pop("colour", None):
            self._settle_colour(colour, ended, denied)
        for role, said in ended.said.items():
            if not self._subject.give(role, said, ended.count):
                self._waiting.wait(role, said)

    def _settle_colour(self, colour: Word, ended: Modifiers, denied: str) -> None:
        group, counts = self._subject.group, ended.has_number
        begins = ended.article in NEW or (counts and len(group) < 2)
        begins = begins and denied not in ("roof", *ONE)
        of_roof = self._roofs.bare or denied == "roof"
        if not group and (of_roof or self._roofs.bare_wall):
            self._waiting.wait_list("accent" if of_roof else "colour", [colour])
        elif self._strange or (of_roof and self._subject.give("accent", colour)):
            return  # the color of an unknown word, which is told
        elif begins or not group:
            count = ended.count if counts else None
            self._waiting.share(Modifiers({"colour": colour}, count=count, counted=ended.counted))
        elif not self._subject.give("colour", colour, ended.count):
            self._ignored.ignore(colour[1], ONE_COLOUR)
