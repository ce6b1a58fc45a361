"""pafu-mini's text encoder: canonical words, two small transformer layers. Trained together with the transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.spec import ModelSpec
from model.vocabulary import TOKEN_IDS, TOKENS, canonical_tokens

LAYERS, HEADS = 2, 4


def token_ids(prompt: str, slots: int) -> Tensor:
    """Ids (slots,) of the prompt's canonical tokens, padded; words beyond the last slot are left out."""
    ids = [TOKEN_IDS[token] for token in canonical_tokens(prompt)][:slots]
    return torch.tensor(ids + [0] * (slots - len(ids)))


class TextEncoder(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.slots = spec.text_len
        self.embedding = nn.Embedding(len(TOKENS), spec.text_dim)
        self.places = nn.Parameter(torch.randn(spec.text_len, spec.text_dim) * 0.5)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                spec.text_dim,
                HEADS,
                2 * spec.text_dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(spec.text_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, slots) to text states (B, slots, text_dim); padding is encoded like a word, as in Wan."""
        x = self.embedding(ids) + self.places
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x)
        return out

    def encode(self, prompt: str) -> Tensor:
        """A prompt to its text states (slots, text_dim)."""
        ids = token_ids(prompt, self.slots).to(self.places.device)
        out: Tensor = self(ids[None])[0]
        return out
