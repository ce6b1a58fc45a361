"""Reads prompts by a few rules: which color, roof and place belong to which thing. No torch.

A model receives phrases, not words: attention layers would need far more training to bind words than to draw
(docs/log.md). Each world has its own ``Grammar`` (grammar.py, grammar2.py), which differs only in words.
"""

from __future__ import annotations

from model.words.clauses import WordClasses
from model.words.description import Description, Thing, recognised
from model.words.reader import Reader

__all__ = ["Description", "Grammar", "Thing"]


class Grammar(WordClasses):
    """How one world's prompts are read."""

    def describe(self, prompt: str) -> Description:
        """Parse a prompt clause by clause. Unknown and negated words are ignored; a later light or ground replaces an
        earlier one."""
        return Reader(self).read(prompt)

    def warnings(self, prompt: str) -> list[str]:
        """One sentence per part of the prompt that is not drawn as it stands."""
        return [*self.lexicon.warnings(prompt), *self.describe(prompt).ignored]

    def names_anew(self, before: str, after: str) -> bool:
        """Whether ``after`` names a thing that ``before`` does not name with the same colours and place."""
        return bool(self.new_things(before, after))

    def new_things(self, before: str, after: str) -> list[int]:
        """Which of the things that ``after`` names, in order, ``before`` does not name with the same colours and place;
        of two alike, the second is new if there was one, and "another mill" is new."""
        things = self.describe(after).things
        found = recognised(things, self.describe(before).things)
        return [at for at in range(len(things)) if at not in found]
