"""Splits prompts into words, and explains which words a model will not draw. No torch.

Each world has its own ``Lexicon`` (vocabulary.py, vocabulary2.py). Numbers, negations and word splitting are the same
in all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from model.camera import without_camera
from model.words.negation import MARK, NEGATIONS, Known, Negated, negated
from model.words.phrases import FILLERS, rewritten, weights
from model.words.spelling import nearest

NUMBERS = {
    **{"one": 1, "two": 2, "couple": 2, "pair": 2, "both": 2, "few": 2, "three": 3, "several": 3, "four": 4},
    **{"all": 3, "they": 3},  # of what was named
}
TOO_MANY = frozenset(
    "five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty "
    "thirty forty fifty sixty seventy eighty ninety dozen dozens hundred hundreds thousand thousands million millions "
    "many lot lots plenty numerous countless".split()
)
FOREIGN = frozenset(  # common words of other languages that are no English words
    "und ein eine einen einem einer mit auf der das ist nicht kein keine ohne et un une le la les des avec sur dans "
    "est los las una con del il gli di de een het nie och og".split()
)
MANY = 99  # stands for any number that is too large
LEAST_PART = 3  # letters of the parts of a compound, as in "wind mill" and "redhouse"

_NUMBER = re.compile(rf"\d+|\d{{1,3}}(?:,\d{{3}})+|{'|'.join(sorted(TOO_MANY | NUMBERS.keys()))}")
_BREAK = re.compile(r"((?<!\d)[,.]|[,.](?!\d)|[;:!?&+|\n]|(?<!\d)/|/(?!\d)|\band\b)")
_SIGNS = str.maketrans({**dict.fromkeys("’‘´`ʼ′", "'"), MARK: " "})
_UNDECIDED = "the model does not choose"


@dataclass(frozen=True)
class Lexicon:
    """canonical: every drawable word and its canonical form. silent: words that are ignored without a warning.
    most_alike: the most things that one phrase may ask for. refused: words that are understood but not drawn, and
    why. plurals: the plurals among the drawable words. trees: kinds after which "tree" says nothing more, as in "pine
    tree". settings: lights, grounds and weathers. passing: those of them that are drawn only while a prompt says so."""

    canonical: Mapping[str, str]
    silent: frozenset[str]
    most_alike: int
    refused: Mapping[str, str] = field(default_factory=dict)
    plurals: frozenset[str] = frozenset()
    trees: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()

    @cached_property
    def _known(self) -> frozenset[str]:
        return self._spellable | self.refused.keys() | FILLERS | {"or"}

    @cached_property
    def _spellable(self) -> frozenset[str]:
        """Known words that are worth a suggestion."""
        return frozenset(self.canonical) | self.silent | NUMBERS.keys() | TOO_MANY | NEGATIONS

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """Which of several known words is suggested first: canonical words before all others."""
        ranks = (self._spellable - self.refused.keys(), NUMBERS, self.canonical, set(self.canonical.values()))
        return {word: -rank for rank, words in enumerate(ranks) for word in words}

    def words(self, text: str) -> list[str]:
        """The words of a text. A known compound in two words ("wind mill", "pine tree") is one word."""
        words: list[str] = []
        for word in cut(text):
            before = words[-1] if words else ""
            if self.canonical.get(word) == "tree" and self.canonical.get(before) in self.trees:
                words[-1] = plural(before) if word in self.plurals else before
            elif before + word in self.canonical and min(len(before), len(word)) >= LEAST_PART:
                words[-1] = before + word
            else:
                words.append(word)
        return words

    def unknown(self, prompt: str) -> list[str]:
        """Words that the model does not know and will ignore, each once."""
        return [word for word in self._affirmed(prompt) if not self._knows(word)]

    def _affirmed(self, prompt: str) -> list[str]:
        """The words of the prompt that are not negated, each once."""
        words = (word for clause in clauses(self.affirmed(prompt)) for word in self.words(clause))
        return list(dict.fromkeys(word for word in words if not word.startswith(MARK)))

    def affirmed(self, prompt: str) -> str:
        """``plain`` with a mark in place of each negated part, see ``negation``."""
        text, kept, end = plain(prompt), [], 0
        for part in self._negated(text):
            kept += [text[end : part.start], f" {MARK}{part.noun} "]
            end = part.end
        return "".join([*kept, text[end:]])

    def _negated(self, text: str) -> list[Negated]:
        return negated(text, Known(self.canonical, self.plurals, self.settings, self.passing))

    def is_silent(self, word: str) -> bool:
        """Whether the word says nothing of the picture."""
        return word in self.silent or word in FILLERS

    def _knows(self, word: str) -> bool:
        return word in self._known or is_number(word) or self._treeless(word)

    def _treeless(self, word: str) -> bool:
        """Whether the word leaves a known thing out, like "treeless"."""
        return word.endswith("less") and word.removesuffix("less") in self.canonical

    def suggestion(self, word: str) -> str | None:
        """The known word that ``word`` probably misspells, or the two that it joins; None if it resembles none."""
        if found := nearest(word, self._ranks):
            return found
        parts = ((word[:end], word[end:]) for end in range(LEAST_PART, len(word) - LEAST_PART + 1))
        return next((f"{first} {last}" for first, last in parts if {first, last} <= self.canonical.keys()), None)

    def warnings(self, prompt: str) -> list[str]:
        """One sentence per part of the prompt that the model will not draw: unknown words (with the word probably
        meant), negations, words that it cannot draw, another language."""
        unknown, words = self.unknown(prompt), self._affirmed(prompt)
        english = "the model knows only a small English vocabulary, and none of these words: "
        meant = {word: self.suggestion(word) for word in unknown}
        foreign = self._foreign(meant, words)
        told = [english + ", ".join(unknown)] if foreign else [_unknown(*each) for each in meant.items()]
        text = plain(prompt)
        left_out = [text[part.start : part.end].strip() for part in self._negated(text) if not part.understood]
        left_out += filter(self._treeless, words)
        told += [f"'{found}' is ignored: the model can draw things, but not leave them out" for found in left_out]
        told += [f"'{each}' is ignored: the model does not weigh words" for each in weights(folded_signs(prompt))]
        refused = {"or": _UNDECIDED, **self.refused}
        return told + [f"'{word}' is ignored: {refused[word]}" for word in words if word in refused]

    def _foreign(self, unknown: Mapping[str, str | None], words: list[str]) -> bool:
        """Whether the prompt is, at least in part, in another language: a word in another script, or several unknown
        words, and common words of another language among them, or few known words or similar ones. ``unknown``:
        the known words that unknown ones resemble."""
        strange = [word for word, meant in unknown.items() if meant is None]
        if any(map(_in_other_script, strange)) or (len(unknown) > 1 and FOREIGN & unknown.keys()):
            return True
        most = len(strange) > len(words) / 2 and len(strange) > 1
        return most or bool(strange) and len(unknown) > 1 and not any(self._knows(word) for word in words)


def _unknown(word: str, meant: str | None) -> str:
    return f"the model does not know '{word}'" + (f"; did you mean '{meant}'?" if meant else "")


def _in_other_script(word: str) -> bool:
    """Whether the word begins with a letter that is not Latin."""
    return word[0].isalpha() and "LATIN" not in unicodedata.name(word[0], "")


def is_number(word: str) -> bool:
    """Whether ``word`` is a number, in digits or words."""
    return _NUMBER.fullmatch(word) is not None


def asked_for(number: str) -> int:
    """How many things a number asks for; MANY if it is too many."""
    if number in NUMBERS:
        return NUMBERS[number]
    digits = number.replace(",", "").lstrip("0") or "0"
    return int(digits) if digits.isdecimal() and len(digits) < len(str(MANY)) else MANY


def folded_signs(prompt: str) -> str:
    """The prompt in lower case and in plain letters and quotes: "Ｒｅｄ" is "red"."""
    return unicodedata.normalize("NFKC", prompt.translate(_SIGNS)).lower()


def plain(prompt: str) -> str:
    """``folded_signs`` without camera phrases, and with set phrases in plain words."""
    return rewritten(without_camera(folded_signs(prompt)))


def pieces(text: str) -> list[str]:
    """A plain text at its punctuation, except in numbers, and at "and": clauses, with what separates them between."""
    return _BREAK.split(text)


def clauses(text: str) -> list[str]:
    """The clauses among the ``pieces`` of a text."""
    return pieces(text)[::2]


def cut(text: str) -> list[str]:
    """The words of a text: runs of letters of any script, digits and marks ("h0use", "3.5", "1/2"); an emoji or other
    pictogram is a word of its own, and the mark of a negated part begins one."""
    words, letters = [], ""
    for place, sign in enumerate(text + " "):
        kind = unicodedata.category(sign)
        within = kind[0] == "M" or sign in ".,/⁄" and letters[-1:].isdigit() and text[place + 1 : place + 2].isdigit()
        if kind[0] in "LN" or sign == MARK or (letters and within):
            letters += sign
            continue
        words += [letters] if letters else []
        words += [sign] if kind == "So" else []
        letters = ""
    return words


def plural(word: str) -> str:
    """The plural of an English word."""
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|sh|ch)$", word) else "s")


def plurals_of(synonyms: Mapping[str, tuple[str, ...]], countable: Iterable[str]) -> dict[str, str]:
    """Maps the plurals of ``countable`` words and their synonyms to the canonical word."""
    named = {token: (token, *synonyms[token]) for token in countable}
    written = {plural(word) for words in named.values() for word in words}
    return {plural(word): token for token, words in named.items() for word in words if word not in written}


def folded(synonyms: Mapping[str, tuple[str, ...]], plurals: Mapping[str, str]) -> dict[str, str]:
    """Maps every word to its canonical word."""
    return {**plurals, **{word: token for token, others in synonyms.items() for word in (token, *others)}}
