"""The words of a model with a small vocabulary of its own: they belong to the text encoder that its spec names. No
torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model import grammar, grammar2, vocabulary, vocabulary2
from model.spec import ModelSpec


@dataclass(frozen=True)
class Words:
    """unknown: words of a prompt that are left out, each once. names_anew(before, after): whether the later prompt
    names a thing as the earlier one does not. suggestions: known words by kind. examples: whole prompts."""

    unknown: Callable[[str], list[str]]
    names_anew: Callable[[str, str], bool]
    suggestions: Mapping[str, tuple[str, ...]]
    examples: tuple[str, ...]


VOCABULARIES = {
    "phrases": Words(vocabulary.unknown_words, grammar.names_anew, vocabulary.SUGGESTIONS, vocabulary.EXAMPLES),
    "phrases-2": Words(vocabulary2.unknown_words, grammar2.names_anew, vocabulary2.SUGGESTIONS, vocabulary2.EXAMPLES),
}


def words_of(spec: ModelSpec) -> Words | None:
    """The vocabulary of ``spec``; None where any words will do."""
    return VOCABULARIES.get(spec.text_encoder)
