"""Vocabularies of models that have their own: they belong to the text encoder that the spec names. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.camera import camera_from_prompt
from model.spec import ModelSpec
from model.words import grammar, grammar2, scenery, unnamed, vocabulary, vocabulary2
from model.words.reading import Grammar


@dataclass(frozen=True)
class Words:
    """grammar: what a prompt says, and which words are drawn. suggestions: known words by kind.
    examples: whole prompts. completed(prompt, before, seed): what the model is told, see ``told``.
    here(told, seed, view, named_at, seen): what it is told of one chunk, see ``model.words.scenery``."""

    grammar: Grammar
    suggestions: Mapping[str, tuple[str, ...]]
    examples: tuple[str, ...]
    completed: Callable[[str, str | None, int | None], str] | None = None
    here: Callable[[str, int, scenery.View, int, frozenset[int]], str] | None = None


VOCABULARIES = {
    "phrases": Words(
        grammar.GRAMMAR, vocabulary.SUGGESTIONS, vocabulary.EXAMPLES, unnamed.completed, scenery.told_here
    ),
    "phrases-2": Words(grammar2.GRAMMAR, vocabulary2.SUGGESTIONS, vocabulary2.EXAMPLES),
}


def words_of(spec: ModelSpec) -> Words | None:
    """The vocabulary of ``spec``; None if the model accepts any words."""
    return VOCABULARIES.get(spec.text_encoder)


def told(prompt: str, before: str | None, seed: int | None, spec: ModelSpec) -> str:
    """What the model is told: the prompt, with what it leaves open as it was told ``before`` (None at the start),
    or as the seed chooses it (None: left open). The prompt itself for models without a vocabulary of their own."""
    words = words_of(spec)
    return prompt if words is None or words.completed is None else words.completed(prompt, before, seed)


def unknown_words(prompt: str, spec: ModelSpec) -> list[str]:
    """Words that a model with its own vocabulary does not know and ignores; other models accept any words."""
    words = words_of(spec)
    return words.grammar.lexicon.unknown(prompt) if words is not None else []


def warnings(prompt: str, spec: ModelSpec) -> list[str]:
    """What parts of the prompt the model will not draw, and why: one sentence each."""
    words = words_of(spec)
    if words is None:
        return []
    named, most = len(words.grammar.describe(prompt).things), spec.text_len - 1
    beyond = f"the prompt names {named} things, and the model draws only the first {most}"
    return [*words.grammar.warnings(prompt), *([beyond] if named > most else [])]


def not_in_sight(before: str, after: str, spec: ModelSpec) -> list[str]:
    """Why a new prompt does not change the view, or not yet: it names no new thing, only things ahead, or only a
    ground. One sentence, or none if the view changes."""
    words = words_of(spec)
    if words is None or camera_from_prompt(after):
        return []
    if new := words.grammar.new_things(before, after):
        ahead = all(place == "ahead" for place in _places(words, before, after, new))
        return ["what is ahead comes into view only when the camera moves there"] if ahead else []
    old, said = vars(words.grammar.describe(before)), vars(words.grammar.describe(after))
    changed = {name for name in ("light", "ground", "later") if said[name] not in (None, old[name])}
    changed |= {"weather"} if said["weather"] != old["weather"] else set()  # it does not stay
    if changed == {"ground"}:
        return ["the new ground appears only where nothing is remembered yet, or together with a new thing"]
    return [] if changed else ["the prompt names nothing new: the view stays as it is"]


def _places(words: Words, before: str, after: str, which: list[int]) -> list[str | None]:
    """The places of some of the things that ``after`` names, as the model is told them: without a place in view, they
    are ahead."""
    things = words.grammar.describe(after).things
    if words.completed is None:
        return [things[at].place for at in which]
    whole = words.grammar.describe(words.completed(after, words.completed(before, None, None), None)).things
    kept = len(whole) != len(things)  # before the new ones
    return [thing.place for thing in whole[-len(which) :]] if kept else [whole[at].place for at in which]
