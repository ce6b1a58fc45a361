"""Splits prompts into words, and explains which words a model will not draw. No torch.

Each world has its own ``Lexicon`` (vocabulary.py, vocabulary2.py). Numbers, negations and word splitting are the same
in all.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from model.camera import without_camera

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "pair": 2, "both": 2, "few": 2, "several": 3, "many": 4}
TOO_MANY = frozenset("five six seven eight nine ten eleven twelve dozen dozens hundred hundreds countless".split())
NEGATIONS = frozenset("no not without never nor none neither nothing zero 0".split())
MANY = 99  # stands for any number that is too large
LEAST_SLIP = 3  # letters; shorter words are never taken for misspelled ones
CLOSE, CLOSE_SHORT, SHORT = 0.75, 0.66, 4  # least similarity of a misspelled word; CLOSE_SHORT up to SHORT letters

_NUMBER = re.compile(rf"\d+|{'|'.join(sorted(TOO_MANY | NUMBERS.keys()))}")
_CONTRACTED = re.compile(r"\b(?:is|are|was|were|do|does|did|has|have|ca|wo|could|should|would)n['’]?t\b")
_NEGATED = re.compile(rf"\b(?:{'|'.join(sorted(NEGATIONS))})\b[^,;.:!?]*?(?=[,;.:!?]|\band\b|\bbut\b|$)")


@dataclass(frozen=True)
class Lexicon:
    """canonical: every drawable word and its canonical form. silent: words that are ignored without a warning.
    most_alike: the most things that one phrase may ask for. refused: words that are understood but not drawn, and
    why."""

    canonical: Mapping[str, str]
    silent: frozenset[str]
    most_alike: int
    refused: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.canonical) | self.silent | self.refused.keys() | NUMBERS.keys() | TOO_MANY | NEGATIONS

    def unknown(self, prompt: str) -> list[str]:
        """Words that the model does not know and will ignore, each once."""
        return list(dict.fromkeys(word for word in cut(affirmed(prompt)) if word not in self._known))

    def suggestion(self, word: str) -> str | None:
        """The known word that ``word`` probably misspells, or None."""
        if len(word) < LEAST_SLIP:
            return None
        cutoff = CLOSE if len(word) > SHORT else CLOSE_SHORT
        for known in (set(self.canonical.values()), self.canonical):  # canonical words first, then synonyms and plurals
            if close := difflib.get_close_matches(word, known, n=1, cutoff=cutoff):
                return close[0]
        return None

    def count(self, number: str) -> int:
        """How many things a number asks for, limited to what is drawn."""
        return min(asked_for(number), self.most_alike)

    def warnings(self, prompt: str) -> list[str]:
        """One sentence per part of the prompt that the model will not draw: unknown words (with the word probably
        meant), negations, too many things of a kind, words that it cannot draw, another language."""
        unknown = self.unknown(prompt)
        if self._foreign(unknown, cut(affirmed(prompt))):
            return [f"the model knows only a small English vocabulary, and none of these words: {', '.join(unknown)}"]
        told = [self._unknown(word) for word in unknown]
        told += [
            f"'{found.strip()}' is ignored: the model can draw things, but not leave them out"
            for found in _NEGATED.findall(plain(prompt))
        ]
        words = list(dict.fromkeys(re.findall(r"[^\W\d_]+|\d+", affirmed(prompt))))
        most = f"is too many: the model draws at most {self.most_alike} of a kind"
        told += [f"'{word}' {most}" for word in words if is_number(word) and asked_for(word) > self.most_alike]
        return told + [f"'{word}' is ignored: {self.refused[word]}" for word in words if word in self.refused]

    def _foreign(self, unknown: list[str], words: list[str]) -> bool:
        """Whether so few words are known, or resemble known ones, that the prompt is probably in another language."""
        strange = [word for word in unknown if self.suggestion(word) is None]
        other_script = any(word.isalpha() and not word.isascii() for word in strange)
        most = len(strange) > len(words) / 2 and (len(strange) > 1 or other_script)
        return most or bool(strange) and len(unknown) > 1 and not any(word in self._known for word in words)

    def _unknown(self, word: str) -> str:
        meant = self.suggestion(word)
        return f"the model does not know '{word}'" + (f"; did you mean '{meant}'?" if meant else "")


def is_number(word: str) -> bool:
    """Whether ``word`` is a number, in digits or words."""
    return _NUMBER.fullmatch(word) is not None


def asked_for(number: str) -> int:
    """How many things a number asks for; MANY if it is too many."""
    if number in TOO_MANY or len(number) > 1 and number.isdecimal():
        return MANY
    return int(number) if number.isdecimal() else NUMBERS[number]


def plain(prompt: str) -> str:
    """The prompt in lower case, without its camera phrases; "isn't" is read as "not"."""
    return _CONTRACTED.sub("not", without_camera(prompt).lower())


def affirmed(prompt: str) -> str:
    """``plain`` without negated parts: a negation extends to the end of its clause."""
    return _NEGATED.sub(" ", plain(prompt))


def cut(text: str) -> list[str]:
    """The words of a text: runs of letters of any script with their marks; an emoji or other pictogram is a word of its
    own."""
    words, letters = [], ""
    for sign in text + " ":
        kind = unicodedata.category(sign)
        if kind[0] == "L" or (letters and kind[0] == "M"):
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


def folded(synonyms: Mapping[str, tuple[str, ...]], countable: tuple[str, ...]) -> dict[str, str]:
    """Maps every word to its canonical word, including the plurals of ``countable`` ones."""
    words = {word: token for token, others in synonyms.items() for word in (token, *others)}
    more = {plural(word): token for token in countable for word in (token, *synonyms[token])}
    return more | words
