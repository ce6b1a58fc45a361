"""Which parts of a prompt are negated, and how far each negation extends. No torch."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

NEGATIONS = frozenset(
    "no not non without never nor none neither nothing zero 0 cannot minus except excluding sans".split()
)
LEAVE_OUT = (
    *(
        "remove",
        "hide",
        "delete",
        "avoid",
        "omit",
        "exclude",
        "erase",
        "skip",
        "forget",
        "drop",
        "lacking",
        "fewer",
        "leave out",
        "get rid of",
    ),
    *("take away", "apart from", "other than", "devoid of", "free of"),
    *(r"take(?= [a-z ]{1,40}\baway\b)", r"clear(?= (?:the|all|away|out)\b)"),
)
INSTEAD = ("instead of", "rather than")  # the other thing is drawn: nothing is lost
EXCHANGED = (  # the same; the other thing comes after one of ``_FOR``
    *("replace", "swap", "exchange"),
    r"(?:change|turn|transform|convert|make)(?= (?:the|that|this) [a-z ]{1,40}\b(?:in)?to (?:an?|the)\b)",
)
MARK = "¬"  # stands for a negated part of a text, followed by what it spoke of: "¬house"
NEAR = 8  # words: how far "but with a blue one" is looked at

_CONTRACTED = (
    r"no longer|(?:do|does|did) not|(?:is|are|was|were|do|does|did|has|have|ca|wo|could|should|would|must|need)n'?t"
)
_ALL_BUT = r"(?:every|any)(?:thing|one|where)?(?: [a-z]+)? but|all but"
_NO_THINGS = r"(?<![\d.,])0(?![.,:]?\d)"
_STARTS = "|".join((_ALL_BUT, _CONTRACTED, *LEAVE_OUT, *sorted(NEGATIONS - {"0"}), _NO_THINGS))
_REPLACED = rf"(?P<instead>{'|'.join(INSTEAD)})|(?P<exchanged>{'|'.join(EXCHANGED)})"
_FOR = {"with", "by", "for", "to", "into"}
_WORD = r"(?!(?:and|or|but|with|then|while)\b)[a-z]+ "
_AUXILIARY = r"(?:(?:is|are|was|were|has|have|slowly|now) )*"
_GOES = (
    r"(?:no longer|not) (?:there|here|visible)|gone|disappear(?:s|ed|ing)?|vanish(?:es|ed|ing)?|(?:goes|go|going) away"
)
_GONE = (  # "the house disappears", "the fog lifts"
    rf"(?:(?:(?:the|all|all the|these|those|both|every) (?:{_WORD})?)?{_WORD}{_AUXILIARY}(?:{_GOES})"
    rf"|(?:the )?(?:fog|mist|haze) {_AUXILIARY}(?:lift(?:s|ed|ing)?|clear(?:s|ed|ing)?))"
)
_LAST = r"negative(?: prompt)?(?=\s*:)|negative prompt"  # the rest of the line is negated
_START = re.compile(rf"\b(?:(?P<last>{_LAST})|(?P<gone>{_GONE})|{_REPLACED}|{_STARTS})\b")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[,;.:!?&+|/\n()\[\]]")
_ADVERB = re.compile(rf"(?:{_CONTRACTED}|not|non|never)\Z")
_SOFT = {",", "and", "/", "&"}
_ENDS = {",", "and", "but", *";.:!?&+|/\n()[]"}
_ARTICLES = {"a", "an", "the", "another"}
_BEGINS = _ARTICLES | {"draw", "show", "add", "put", "there"}
_COUNTS = {"one", "two", "three", "four"}
_PREPOSITIONS = {"with", "on", "in", "at", "by"}
_WHEN = {"on", "in", "at", "during"}
_OR = {"or", "nor"}
_LISTS = _OR | {"any", "other"}


@dataclass(frozen=True)
class Negated:
    """Characters ``start`` to ``end`` of a text are negated. noun: the kind, roof or "one" that they speak
    of last, if the prompt goes on to say what is meant in its place. understood: that is all there is to say."""

    start: int
    end: int
    noun: str
    understood: bool


@dataclass(frozen=True)
class Known:
    """What a world's words are: ``canonical`` forms, ``plurals`` of kinds, ``settings``: lights, grounds and weathers,
    and ``passing``: those of them that are drawn only while a prompt says so."""

    canonical: Mapping[str, str]
    plurals: frozenset[str]
    settings: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()


def negated(text: str, known: Known) -> list[Negated]:
    """The negated parts of a plain text, in order."""
    finder = _Finder(text, known)
    found: list[Negated] = []
    for start in _START.finditer(text):
        if not found or start.start() >= found[-1].end:
            found.append(finder.part(start))
    return found


class _Finder:
    """How far each negation of one text extends."""

    def __init__(self, text: str, known: Known) -> None:
        self._text, self._known, self._canonical, self._plurals = text, known, known.canonical, known.plurals
        self._nouns = {known.canonical[word] for word in known.plurals} | {"roof"}
        self._spans = [match.span() for match in _TOKEN.finditer(text)]
        self._words = [text[start:end] for start, end in self._spans]
        self._starts = [start for start, _ in self._spans]

    def part(self, start: re.Match[str]) -> Negated:
        """The negated part that begins with ``start``."""
        if start["last"]:
            end = self._text.find("\n", start.end())
            return Negated(start.start(), end if end >= 0 else len(self._text), "", False)
        if start["gone"]:
            return Negated(start.start(), start.end(), "", self._passes(start[0].split()))
        first = bisect_left(self._starts, start.end())
        first += self._words[first : first + 1] == [":"]  # "avoid: trees"
        if _ADVERB.match(start[0]) and self._is_adjective(start, first):
            last = first + 1
        else:
            last = self._end(first, start)
        until = self._spans[last - 1][1] if last > first else start.end()
        replaced, noun = bool(start["instead"] or start["exchanged"]), self._noun(first, last)
        following = self._words[last : last + NEAR]
        corrected = "but" in (following[:1] if following[:1] != [","] else following[1:2])
        another = not {"one", "ones"}.isdisjoint(following)
        understood = replaced or (corrected and (another or bool(_ADVERB.match(start[0]))))
        understood = understood or self._passes(self._words[first:last])
        return Negated(start.start(), until, noun if replaced or corrected or noun == "roof" else "", understood)

    def _passes(self, words: list[str]) -> bool:
        """Whether all known words are of what is drawn only while a prompt says so: "no fog" is what it is without."""
        known = {self._canonical[word] for word in words if word in self._canonical}
        return bool(known) and known <= self._known.passing

    def _is_adjective(self, start: re.Match[str], first: int) -> bool:
        """Whether a single word is negated, as in "a non-red house" and "a not red house"."""
        before = bisect_left(self._starts, start.start()) - 1
        after_article = before >= 0 and self._words[before] in _ARTICLES
        adjective = first < len(self._words) and self._words[first] not in _ENDS | _ARTICLES | _PREPOSITIONS
        return adjective and (start[0] == "non" or after_article)

    def _end(self, first: int, start: re.Match[str]) -> int:
        """The token after the part: where the clause or the noun phrase ends, or after a list of plurals."""
        stops = _FOR if start["exchanged"] else set()
        bare, noun = bool(_ADVERB.match(start[0])), False
        for at in range(first, len(self._words)):
            word, before = self._words[at], self._words[at - 1] if at > first else ""
            if word in _ENDS:
                return self._list_end(first, at) if word in _SOFT and at > first else at
            if word in stops or self._begins(word, self._canonical.get(before, "")) or self._says_when(at, before):
                return at
            if bare and not noun and word in _PREPOSITIONS and before:
                return at
            noun = noun or word in _ARTICLES or self._canonical.get(word) in self._nouns
            if self._canonical.get(word) == "roof" and not self._lists(at + 1):
                return at + 1
        return len(self._words)

    def _begins(self, word: str, before: str) -> bool:
        """Whether another noun phrase begins with ``word``."""
        return bool(before) and word in _BEGINS or before in self._nouns and word in _COUNTS

    def _says_when(self, at: int, before: str) -> bool:
        """Whether the setting follows, as in "without trees at night"."""
        if self._words[at] not in _WHEN or not (before in self._canonical or self._is_plural(before)):
            return False
        at += 2 if self._words[at + 1 : at + 2] and self._words[at + 1] in _ARTICLES else 1
        return any(self._canonical.get(word) in self._known.settings for word in self._words[at : at + 1])

    def _lists(self, at: int) -> bool:
        return at < len(self._words) and self._words[at] in (*_LISTS, *_SOFT)

    def _list_end(self, first: int, at: int) -> int:
        """Where a negated list of bare nouns ends, as in "no trees, mills or people"; else ``at``. A noun in the
        singular belongs to it only with "or" and after a colon."""
        if not _ARTICLES.isdisjoint(self._words[first:at]):
            return at
        after_colon = first > 0 and self._words[first - 1] == ":"  # "exclude: mill, tower"
        plural, end = self._is_plural(self._words[at - 1]), at
        while at < len(self._words) and self._words[at] in _SOFT:
            begin = at = at + 1
            while at < len(self._words) and self._words[at] not in _ENDS:
                at += 1
            item = self._words[begin:at]
            if item and not self._is_bare(item):
                break
            plurals = plural and item and self._is_plural(item[-1])
            if plurals or (after_colon and item) or not _OR.isdisjoint(item):
                end = at
        return end

    def _is_bare(self, item: list[str]) -> bool:
        nouns = [word for word in item if word not in _LISTS]
        return all(map(self._is_listable, nouns)) and len(nouns) <= 1 + sum(word in _OR for word in item)

    def _is_plural(self, word: str) -> bool:
        return word in self._plurals or word == "people" or (word not in self._canonical and word[-1:] == "s")

    def _is_listable(self, word: str) -> bool:
        return self._canonical.get(word) in self._nouns or word not in self._canonical and word not in NEGATIONS

    def _noun(self, first: int, last: int) -> str:
        nouns = [self._canonical.get(word, word) for word in self._words[first:last]]
        return next((noun for noun in reversed(nouns) if noun in self._nouns or noun in ("one", "ones")), "")
