"""pafu-mini's text encoder: one slot per phrase of the prompt. It is trained together with the transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.spec import ModelSpec
from model.words.grammar import Description, Thing, arranged, describe
from model.words.vocabulary import COLOURS, GROUNDS, KINDS, LIGHTS, PLACES, WEATHERS

ROLES = {
    **{"kind": KINDS, "colour": COLOURS, "accent": COLOURS, "place": PLACES},
    **{"light": LIGHTS, "ground": GROUNDS, "weather": WEATHERS},
}
# Id 0 is "not mentioned". A color has two ids: one for a thing and one for its roof.
SYMBOLS = {pair: i + 1 for i, pair in enumerate((role, word) for role, words in ROLES.items() for word in words)}
SYMBOLS_PER_SLOT = 4


def phrase_ids(prompt: str, slots: int) -> Tensor:
    """Symbols (slots, SYMBOLS_PER_SLOT) of a prompt: light, ground and weather in the first slot, then one thing per
    slot, in order. Things beyond the last slot are dropped."""
    return _ids(describe(prompt), slots)


def arranged_ids(prompt: str, slots: int) -> Tensor:
    """As ``phrase_ids``, for streams: several things without a place get one each."""
    return _ids(arranged(describe(prompt)), slots)


def _ids(said: Description, slots: int) -> Tensor:
    rows = [_scene_symbols(said), *(_thing_symbols(thing) for thing in said.things)][:slots]
    ids = torch.zeros(slots, SYMBOLS_PER_SLOT, dtype=torch.long)
    ids[: len(rows)] = torch.tensor(rows)
    return ids


def _scene_symbols(said: Description) -> list[int]:
    return [_symbol("light", said.light), _symbol("ground", said.ground), _symbol("weather", said.weather), 0]


def _thing_symbols(thing: Thing) -> list[int]:
    return [_symbol(role, getattr(thing, role)) for role in ("kind", "colour", "accent", "place")]


def _symbol(role: str, word: str | None) -> int:
    return SYMBOLS[role, word] if word else 0


class TextEncoder(nn.Module):
    """``symbols`` is the number of symbols besides "not mentioned"; ``ids`` converts a prompt to symbols."""

    def __init__(
        self, spec: ModelSpec, symbols: int = len(SYMBOLS), ids: Callable[[str, int], Tensor] = arranged_ids
    ) -> None:
        super().__init__()
        width = spec.text_dim
        self.slots, self._ids = spec.text_len, ids
        self.embedding = nn.Embedding(symbols + 1, width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(spec.text_len, width) * 0.5)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Symbols (B, slots, SYMBOLS_PER_SLOT) to text states (B, slots, text_dim). Empty slots are encoded too, like
        padding in Wan."""
        x = self.embedding(ids).sum(-2) + self.places
        out: Tensor = self.norm(x + self.mix(x))
        return out

    def encode(self, prompt: str) -> Tensor:
        """A prompt to its text states (slots, text_dim)."""
        ids = self._ids(prompt, self.slots).to(self.places.device)
        out: Tensor = self(ids[None])[0]
        return out
