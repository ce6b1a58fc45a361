"""The asking head: how surely a cached token shows a thing that the present prompt names.

It reads a token's value as the cache holds it, magnitude included, and the prompt's keys of cross-attention, so it can
ask about tokens that were written long before the words came. One safetensors file beside its student, as the salience
head; the file says which student it belongs to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.salience import Named, SalienceHead
from model.spec import ModelSpec

ASKING_FILE = "asking.safetensors"
WIDTHS_PER_DIM = 12  # the hidden layer is so much narrower than the transformer: below 1 % of its parameters
DESCRIPTION = 16  # numbers in which a token and a phrase are compared
DOUBT = -3.0  # logit of a head that has learned nothing: hardly ever


class AskingHead(Named):
    """Values (layers, n, H, D) and the prompt's keys (layers, slots, H, D) to how surely each token was asked for.

    A token and every slot of the prompt become short descriptions; the slot that fits best counts. ``scale`` is the
    usual size of a value in each layer.
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
        """Before the squashing: (layers, n) float32."""
        return torch.stack([self._logits(layer, *pair) for layer, pair in enumerate(zip(values, told, strict=True))])

    def asked(self, layer: int, values: Tensor, told: Tensor) -> Tensor:
        """One layer: values (n, H, D) and the prompt's keys (slots, H, D) to (n,) in (0, 1)."""
        return self._logits(layer, values, told).sigmoid()

    def _logits(self, layer: int, values: Tensor, told: Tensor) -> Tensor:
        x = (values.flatten(1) / self.scale[layer]).to(self.weight1.dtype)
        hidden = F.gelu(torch.addmm(self.bias1[layer], x, self.weight1[layer]))
        shown = torch.addmm(self.bias2[layer], hidden, self.weight2[layer])
        wanted = torch.addmm(self.told_bias[layer], told.flatten(1).to(self.told.dtype), self.told[layer])
        return (shown @ wanted.T).amax(1).float() + self.doubt[layer].float()


class Heads(NamedTuple):
    """What may be asked about the tokens of a model, as far as there is somebody to ask."""

    salience: SalienceHead | None = None
    asking: AskingHead | None = None
