"""Prompts of the second world as symbols, one slot per phrase."""

from __future__ import annotations

import torch
from torch import Tensor

from model.spec import ModelSpec
from model.words.grammar2 import Description, Thing, describe
from model.words.text import TextEncoder
from model.words.vocabulary2 import ROLES

# Id 0 is "not mentioned". A color has two ids: one for a thing and one for its roof.
SYMBOLS = {pair: i + 1 for i, pair in enumerate((role, word) for role, words in ROLES.items() for word in words)}
SYMBOLS_PER_SLOT = 5
SCENE_ROLES = ("light", "weather", "ground", "later")
THING_ROLES = ("kind", "colour", "accent", "place", "distance")


def phrase_ids(prompt: str, slots: int) -> Tensor:
    """Symbols (slots, SYMBOLS_PER_SLOT) of a prompt: light, weather, ground and later light in the first slot, then one
    thing per slot, in order. Things beyond the last slot are dropped."""
    said = describe(prompt)
    rows = [_symbols(said, SCENE_ROLES), *(_symbols(thing, THING_ROLES) for thing in said.things)][:slots]
    ids = torch.zeros(slots, SYMBOLS_PER_SLOT, dtype=torch.long)
    for slot, row in enumerate(rows):
        ids[slot, : len(row)] = torch.tensor(row)
    return ids


def _symbols(said: Description | Thing, roles: tuple[str, ...]) -> list[int]:
    return [_symbol(role, getattr(said, role)) for role in roles]


def _symbol(role: str, word: str | None) -> int:
    return SYMBOLS[role, word] if word else 0


def text_encoder(spec: ModelSpec) -> TextEncoder:
    """The text encoder of the second world, with fresh weights."""
    return TextEncoder(spec, len(SYMBOLS), phrase_ids)
