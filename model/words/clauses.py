"""The clauses of a prompt, each with its words, and lists of colors kept whole: "two houses with red and blue roofs".
No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from model.words.lexicon import Lexicon, is_number, pieces

LISTED = "&"  # stands between the colors of a list; no word of a prompt
ONE = ("one", "ones")
LINKS = frozenset("is are was were be that which in of painted colored coloured being".split())  # "roof is red"
ORDINALS = {"first": 0, "second": 1, "third": 2}
MORE = ("more", "extra", "additional", "new")
OWNS = ("with", "has", "have", "having")
PLURAL_VERBS = ("are", "were", "have")
VERBS = (*PLURAL_VERBS, "is", "was", "has")
CHANGES = frozenset("turn turns turned turning become becomes became change changes changed make makes".split())
ENDS_COLOR = (*OWNS, "whose", "that", "which")  # no color before these describes a thing after them
PREPOSITIONS = ("on", "to", "at", "from", "of", "in")
_SOFT = {",", "and", "&", "+", "/"}
RELATIONS = frozenset("behind near next beside between above below under opposite against along around beyond".split())
ARTICLES = ("a", "an")
DETERMINERS = (*ARTICLES, "another", "the", "these", "those")


Word = tuple[str, str]  # in canonical form, and as it is spelled


@dataclass(frozen=True)
class WordClasses:
    """The words of one world, by what they say. alone: places that only one of several things of a phrase can take.
    roofed: kinds with a second color."""

    lexicon: Lexicon
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    lights: tuple[str, ...]
    grounds: tuple[str, ...]
    places: tuple[str, ...]
    weathers: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    roofed: frozenset[str] = frozenset()

    def may_have(self, kind: str, role: str) -> bool:
        """Whether a thing of this kind can have such an attribute."""
        return role != "accent" or kind in self.roofed


@dataclass
class Clause:
    """The words of a clause as they are spelled, and the same in canonical form. before: what separates it from the
    clause before."""

    spelled: list[str]
    words: list[str]
    classes: WordClasses = field(repr=False)
    before: str = ""

    @classmethod
    def of(cls, spelled: list[str], classes: WordClasses, before: str) -> Clause:
        """The clause of these words."""
        canonical = classes.lexicon.canonical
        return cls(spelled, [canonical.get(word, word) for word in spelled], classes, before)

    def word(self, at: int) -> str:
        """The word at ``at``, "" beyond the ends."""
        return self.words[at] if 0 <= at < len(self.words) else ""

    @cached_property
    def places(self) -> set[str]:
        """The places that it names."""
        return {*self.words} & {*self.classes.places}

    @cached_property
    def says_other(self) -> bool:
        """Whether it speaks of another thing than the clause before."""
        return "other" in self.words

    @cached_property
    def has_verb(self) -> bool:
        """Whether it says what is: "a house and a mill are red"."""
        return not {*VERBS}.isdisjoint(self.words)

    @cached_property
    def changes(self) -> bool:
        """Whether it says that something gets another color: "turn the red house blue"."""
        return not CHANGES.isdisjoint(self.words)

    @cached_property
    def heads(self) -> list[bool]:
        """For each word, whether it describes a kind that follows, as each of "one big red house" does."""
        return self._leading_to(self.classes.kinds)

    @cached_property
    def heads_one(self) -> list[bool]:
        """For each word, whether it describes a "one" that follows, as in "another blue one"."""
        return self._leading_to(ONE)

    def _leading_to(self, nouns: Sequence[str]) -> list[bool]:
        found, leads = [], False
        for word, spelled in zip(reversed(self.words), reversed(self.spelled), strict=True):
            found.append(leads)
            leads = word in nouns or (leads and self._describes(word, spelled))
        return found[::-1]

    def _describes(self, word: str, spelled: str) -> bool:
        adjective = word in (*self.classes.colours, *self.classes.places, "roofed", "other", *MORE) or word in ORDINALS
        return adjective or is_number(word) or not (word in self.classes.lexicon.canonical or self._is_silent(spelled))

    def _is_silent(self, spelled: str) -> bool:
        return self.classes.lexicon.is_silent(spelled)

    @cached_property
    def leading(self) -> int:
        """How many colors it begins with."""
        return self._run(range(len(self.words)))

    @cached_property
    def trailing(self) -> int:
        """How many colors it ends with."""
        return self._run(range(len(self.words) - 1, -1, -1))

    def _run(self, places: Sequence[int]) -> int:
        colors = (self.words[at] in self.classes.colours for at in places)
        return next((count for count, color in enumerate(colors) if not color), len(self.words))

    @property
    def only_colors(self) -> bool:
        """Whether it says nothing but colors."""
        return bool(self.words) and self.leading == len(self.words)

    @property
    def leads_to_many(self) -> bool:
        """Whether it begins with colors of several roofs or walls."""
        word, spelled = self.word(self.leading), (self.spelled[self.leading] if self.word(self.leading) else "")
        return self.leading > 0 and (spelled == "walls" or word == "roofed" or (word == "roof" and spelled[-1] == "s"))

    @property
    def ends_in_color(self) -> bool:
        """Whether it ends with a color that is said of what it names before, as in "roofs are red"."""
        named = any(word in (*self.classes.kinds, "roof") for word in self.words)
        return named and self.trailing > 0

    @property
    def ends_in_roof(self) -> bool:
        """Whether it ends with a roof whose color is still to come, as in "with a roof, red"."""
        return self.word(len(self.words) - 1) == "roof" and self.roof_waits

    @cached_property
    def roof_waits(self) -> bool:
        """Whether it names a roof and no color of it, as in "roof of the house: red"."""
        at = len(self.words) - 1 - self.words[::-1].index("roof") if "roof" in self.words else 0
        colours = {*self.classes.colours}
        return self.word(at) == "roof" and self.word(at - 1) not in colours and colours.isdisjoint(self.words[at:])

    @cached_property
    def names_thing(self) -> bool:
        """Whether it names a kind of thing."""
        return not {*self.classes.kinds}.isdisjoint(self.words)

    @cached_property
    def item_end(self) -> int:
        """Where it ends as an item of a list: before the roof of "a red roof", which the last item names for all."""
        last = len(self.words) - 1
        return last if self.word(last) == "roof" and self.colored(last - 1) else last + 1

    def leads_to_one_more(self, following: Clause) -> bool:
        """Whether ``following`` names the color of another roof, as in "with a red and a blue roof" and in "with a red
        roof and a blue roof"."""
        article = self.word(self.item_end - 2) in ARTICLES and self.colored(self.item_end - 1)
        if self.item_end < len(self.words) and following.names_thing:
            return False  # "with a red roof and a blue roof on the mill"
        return article and following.word(0) in ARTICLES and following.word(2) == "roof" and following.colored(1)

    def colored(self, at: int) -> bool:
        """Whether the word at ``at`` is a color."""
        return self.word(at) in self.classes.colours


def clauses(text: str, classes: WordClasses) -> Iterator[Clause]:
    """The clauses of an affirmed text; the parts of a list of colors are one clause, with ``LISTED`` between them."""
    parts = _parts(text, classes)
    joins = _joins(parts)
    whole: list[str] = []
    before = ""
    for part, joined in zip(parts, joins, strict=True):
        before = before if whole else part.before
        item = part.spelled[: part.item_end] if joined else part.spelled
        whole += [LISTED, *item[part.word(0) in ARTICLES :]] if whole else item
        if not joined:
            yield Clause.of(whole, classes, before)
            whole = []


def _parts(text: str, classes: WordClasses) -> list[Clause]:
    """The text at its punctuation and at "and"; empty parts are left out, and a hard break goes before a soft one."""
    parts, before = [], ""
    for at, piece in enumerate(pieces(text)):
        if at % 2:
            before = piece if before in ("", *_SOFT) else before
        elif words := classes.lexicon.words(piece):
            parts.append(Clause.of(words, classes, before))
            before = ""
    return parts


def _joins(parts: Sequence[Clause]) -> list[bool]:
    """Whether each part belongs to one list of colors with the next one."""
    joins = [False] * len(parts)
    leads = False
    for at in range(len(parts) - 2, -1, -1):  # "red, white and blue roofs"
        following = parts[at + 1]
        leads = following.leads_to_many or (leads and following.only_colors)
        leads = leads and following.before in _SOFT and parts[at].trailing > 0
        joins[at] = leads or (following.before in _SOFT and parts[at].leads_to_one_more(following))
    ends = False
    for at, part in enumerate(parts[:-1]):  # "roofs are red, white and blue"
        following = parts[at + 1]
        soft = following.before in _SOFT and (part.ends_in_color or (ends and part.only_colors))
        roof = following.before in _SOFT and part.ends_in_roof or following.before == ":" and part.roof_waits
        ends = following.only_colors and (soft or roof)
        joins[at] = joins[at] or ends
    return joins
