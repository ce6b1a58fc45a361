"""Muon for matrices, and for convolutions seen as matrices, in float32.

``torch.optim.Muon`` orthogonalizes in bfloat16, which a CPU without native bf16 runs about twenty times slower than
float32 (docs/log.md). This one uses float32 and handles all matrices of one shape in one batched product. Source:
Jordan et al., "Muon" (2024); the rate is scaled by 0.2 sqrt(max(rows, columns)), so that AdamW's rates carry over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 4


def orthogonalise(matrices: Tensor) -> Tensor:
    """(N, rows, columns) to nearly orthogonal matrices with the same singular vectors."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.mT if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """The optimiser; its parameters are matrices or convolutions."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it never calls one
        """Update all parameters from their gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.flatten(1).shape].append(p)
            for shape, params in by_shape.items():
                updates = orthogonalise(torch.stack([self._direction(p, group["momentum"]) for p in params]))
                scale = 0.2 * max(shape) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the gradient."""
        state, gradient = self.state[p], cast(Tensor, p.grad)
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum).flatten(1)


def optimizers(module: nn.Module, matrix_rate: float, other_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the module's matrices and convolutions, AdamW for everything else (biases, norms, embeddings)."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    matrices = [
        p
        for p in module.parameters()
        if p.ndim in (2, 4, 5) and id(p) not in embeddings and min(p.flatten(1).shape) > 8
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [Muon(matrices, matrix_rate), torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)]
