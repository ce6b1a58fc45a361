"""The phrases of a prompt of the second world as symbols, one phrase per slot."""

from __future__ import annotations

import torch
from torch import Tensor

from model.grammar2 import Description, Thing, describe
from model.spec import ModelSpec
from model.text import TextEncoder
from model.vocabulary2 import ROLES

# Id 0 is "not said"; the same colour has two ids, one as a thing's and one as its roof's.
SYMBOLS = {pair: i + 1 for i, pair in enumerate((role, word) for role, words in ROLES.items() for word in words)}
SYMBOLS_PER_SLOT = 5
SCENE_ROLES = ("light", "weather", "ground", "later")
THING_ROLES = ("kind", "colour", "accent", "place", "distance")


def phrase_ids(prompt: str, slots: int) -> Tensor:
    """Symbols (slots, SYMBOLS_PER_SLOT) of a prompt: light, weather, ground and the light to come in the first slot,
    then one thing per slot, in order; things beyond the last slot are left out."""
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
    """The text encoder of the second world's phrases, with fresh weights."""
    return TextEncoder(spec, len(SYMBOLS), phrase_ids)
