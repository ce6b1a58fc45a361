"""The asking head: how surely a cached token shows something that the current prompt names.

It reads a token's cached value, magnitude included, and the prompt's cross-attention keys, so it can judge tokens
written long before the prompt. Like the salience head it is one safetensors file beside its student, and names the
student it belongs to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.spec import ModelSpec
from model.transformer.salience import Named, SalienceHead

ASKING_FILE = "asking.safetensors"
WIDTHS_PER_DIM = 12  # model width per hidden width: keeps the head below 1 % of the parameters
DESCRIPTION = 16  # size of the vectors in which a token and a phrase are compared
DOUBT = -3.0  # initial logit: an untrained head answers "hardly ever"


class AskingHead(Named):
    """Maps values (layers, n, H, D) and the prompt's keys (layers, slots, H, D) to how surely the prompt names each
    token, in (0, 1).

    Each token and each prompt slot is projected to a short vector; the best matching slot counts. ``scale`` is the
    typical magnitude of values per layer.
    """

    scale: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.model = spec.name
        layers, dim, hidden = spec.num_layers, spec.dim, max(4, spec.dim // WIDTHS_PER_DIM)
        self.weight1 = nn.Parameter(torch.randn(layers, dim, hidden) / dim**0.5)
        self.bias1 = nn.Parameter(torch.zeros(layers, 1, hidden))
        self.weight2 = nn.Parameter(torch.randn(layers, hidden, DESCRIPTION) / hidden**0.5)
        self.bias2 = nn.Parameter(torch.zeros(layers, 1, DESCRIPTION))
        self.told = nn.Parameter(torch.randn(layers, dim, DESCRIPTION) / dim**0.5)
        self.told_bias = nn.Parameter(torch.zeros(layers, 1, DESCRIPTION))
        self.doubt = nn.Parameter(torch.full((layers, 1), DOUBT))
        self.register_buffer("scale", torch.ones(layers, 1, 1))

    def logits(self, values: Tensor, told: Tensor) -> Tensor:
        """Scores before the sigmoid: (layers, n) float32."""
        return torch.stack([self._logits(layer, *pair) for layer, pair in enumerate(zip(values, told, strict=True))])

    def asked(self, layer: int, values: Tensor, told: Tensor) -> Tensor:
        """One layer: values (n, H, D) and the prompt's keys (slots, H, D) to scores (n,) in (0, 1)."""
        return self._logits(layer, values, told).sigmoid()

    def _logits(self, layer: int, values: Tensor, told: Tensor) -> Tensor:
        x = (values.flatten(1) / self.scale[layer]).to(self.weight1.dtype)
        hidden = F.gelu(torch.addmm(self.bias1[layer], x, self.weight1[layer]))
        shown = torch.addmm(self.bias2[layer], hidden, self.weight2[layer])
        wanted = torch.addmm(self.told_bias[layer], told.flatten(1).to(self.told.dtype), self.told[layer])
        return (shown @ wanted.T).amax(1).float() + self.doubt[layer].float()


class Heads(NamedTuple):
    """The heads of a model that score tokens; None if the model has no such head."""

    salience: SalienceHead | None = None
    asking: AskingHead | None = None
