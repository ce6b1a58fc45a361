"""Words that wait for their thing: articles, numbers, colors, places that are said before it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.words.clauses import MORE, ONE, ORDINALS, Word
from model.words.cursor import Cursor
from model.words.ignored import NO_THING, ONE_COLOUR, Ignored
from model.words.lexicon import asked_for, is_number
from model.words.references import TOGETHER

NEW = ("a", "an", "another")
THE = ("the", "these", "those")
_ONE_OF = {"colour": ONE_COLOUR, "accent": "a roof has one color"}


@dataclass
class Modifiers:
    """What the words before a noun say of it. said: its attributes by role. lists: the colors of several things by
    role. count: None if no number was said, else the number ``counted``. ordinal: 0 for the first. other: the word
    that calls it another one."""

    said: dict[str, Word] = field(default_factory=dict)
    lists: dict[str, list[Word]] = field(default_factory=dict)
    article: str = ""
    count: int | None = None
    counted: str = ""
    ordinal: int | None = None
    other: str = ""

    @property
    def is_definite(self) -> bool:
        """Whether they speak of a thing that is known."""
        return self.article in THE

    @property
    def has_number(self) -> bool:
        """Whether they say how many, not only "both"."""
        return self.count is not None and self.counted not in TOGETHER

    @property
    def as_item(self) -> Modifiers:
        """Only the colors and the number, as an item of a list shares them with a later noun."""
        colors = {role: said for role, said in self.said.items() if role in ("colour", "accent")}
        return Modifiers(colors, count=self.count if self.has_number else None, counted=self.counted)

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes in canonical form."""
        return {role: word for role, (word, _) in self.said.items()}


class Waiting:
    """The modifiers that wait for the next noun, and the colors of the clauses before that share it, as in "a red and
    a blue mill". What waits in vain is told."""

    def __init__(self, ignored: Ignored) -> None:
        self.modifiers = Modifiers()
        self._shared: list[Modifiers] = []
        self._ignored = ignored

    def wait(self, role: str, said: Word) -> None:
        """Keep an attribute; it replaces an earlier one."""
        if role in self.modifiers.said:
            self._ignored.ignore(self.modifiers.said[role][1], _ONE_OF.get(role, f"a thing has one {role}"))
        self.modifiers.said[role] = said

    def wait_list(self, role: str, listed: list[Word]) -> None:
        """Keep the colors of several things."""
        self.modifiers.lists[role] = listed

    def wait_other(self, word: str) -> None:
        """Keep a word that calls the thing another one; an earlier one stays."""
        self.modifiers.other = self.modifiers.other or word

    def forget_article(self) -> None:
        """The article was that of no thing, as in "the meadow"."""
        self.modifiers.article = ""

    def determine(self, cursor: Cursor) -> bool:
        """Keep an article, a number or a word such as "second" and "other"; False if the word is none."""
        word, modifiers = cursor.word, self.modifiers
        if word in NEW:
            self._tell_number(modifiers)
            modifiers.article, modifiers.count = word, None
            self.wait_other(word if word == "another" else "")
        elif word in THE:
            modifiers.article = word
        elif word in (*MORE, "add") or (word == "other" and not modifiers.is_definite):
            modifiers.other = word
        elif cursor.heads and word in ORDINALS:
            modifiers.ordinal = ORDINALS[word]
            modifiers.other = word if modifiers.ordinal > 0 and not modifiers.is_definite else ""
        elif (word == "both" and cursor.following in (*NEW, *THE)) or (word in TOGETHER and modifiers.article in NEW):
            pass  # "both a house and a mill", "an all-red house"
        elif is_number(word):
            self._count(cursor.spelled, cursor.last)
        else:
            return False
        return True

    def _count(self, number: str, before: str) -> None:
        """A number; of two together, as in "three hundred" and "2-3", the larger one counts."""
        modifiers, count = self.modifiers, asked_for(number)
        if not is_number(before) and number != modifiers.counted:
            self._tell_number(modifiers)
        elif modifiers.count is not None and modifiers.count >= count:
            return
        modifiers.count, modifiers.counted = count, number

    def take(self) -> Modifiers:
        """All that waits for a noun: here it is."""
        taken, self.modifiers = self.modifiers, Modifiers()
        return taken

    def take_colour(self) -> Word | None:
        """The color that waits, for something before the noun; None if there is none."""
        return self.modifiers.said.pop("colour", None)

    def share(self, modifiers: Modifiers) -> None:
        """Keep modifiers of a clause without a noun for the noun of a later one."""
        self._shared.append(modifiers)

    def take_shared(self, wanted: bool) -> list[Modifiers]:
        """What the clauses before share with this noun. If it is not ``wanted``, a roof waits for the noun itself, as
        in "a red-roofed, white house"; a color is dropped, and told."""
        shared, self._shared = self._shared, []
        if wanted:
            return shared
        for each in shared:
            if "colour" in each.said:
                self._ignored.ignore(each.said["colour"][1], NO_THING)
            if "accent" in each.said:
                self._wait_before("accent", each.said["accent"])
        return []

    def _wait_before(self, role: str, said: Word) -> None:
        later = self.modifiers.said.pop(role, None)
        self.wait(role, said)
        if later:
            self.wait(role, later)

    def end_clause(self) -> Modifiers:
        """What no noun of the clause took; lists of colors wait on."""
        ended, self.modifiers = self.modifiers, Modifiers(lists=self.modifiers.lists)
        if not ended.said:
            self._tell_number(ended)
        if ended.other and ended.other != "add":
            self._ignored.ignore(ended.other, NO_THING)
        return ended

    def end(self) -> None:
        """The prompt has no more nouns: tell the attributes that still wait."""
        for _, spelled in (*self.modifiers.said.values(), *sum(self.modifiers.lists.values(), [])):
            self._ignored.ignore(spelled, NO_THING)

    def _tell_number(self, modifiers: Modifiers) -> None:
        if modifiers.count is not None and modifiers.counted not in (*ONE, *TOGETHER):
            self._ignored.ignore(modifiers.counted, "it counts no thing")
