"""Linear layers for CPUs: oneDNN gets each weight once, in its own layout, and applies the GELU to the product at once.

``F.linear`` converts the weight at every call. Source: the layers that ``torch.compile`` uses for frozen weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.transformer.dit import CausalDiT

ONLY_SERVES = "packed weights are only for serving: save or train the model as it was loaded"


class PackedLinear(nn.Module):
    """A linear layer with ``weight`` (out, in) and ``bias`` (out,), for inference on a CPU.

    It keeps only the converted weight, made for ``rows`` input rows; other numbers of rows work too.
    """

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        self._bias = bias.detach().clone()
        self._activation, self._algorithm = "none", ""

    def then_gelu(self) -> None:
        """Apply GELU (tanh) to the product."""
        self._activation, self._algorithm = "gelu", "tanh"

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(ONLY_SERVES)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._activation, [], self._algorithm
        )
        return out

    def state_dict(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(ONLY_SERVES)


def can_pack(dit: CausalDiT) -> bool:
    """Whether oneDNN is here, and has products in the model's dtype."""
    weight = dit.head.head.weight
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dit.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dit.dtype == torch.float32


@torch.no_grad()
def pack(dit: CausalDiT) -> None:
    """Pack the large products of all blocks and free their original weights. For a model that only serves, and that
    ``can_pack``."""
    for block in dit.each_block():
        block.replace_products(partial(PackedLinear, rows=dit.spec.tokens_per_chunk))
        cast(PackedLinear, block.ffn[0]).then_gelu()
        block.ffn[1] = nn.Identity()
