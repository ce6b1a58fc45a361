"""FP8 (e4m3) products for GPUs that support them: weights are scaled per row once, inputs per row at every call.

FP8 is optional because it costs accuracy; ``pafu bench`` reports the error with the speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.transformer.dit import CausalDiT

LARGEST = 448.0  # largest e4m3 value
SMALLEST = 1e-12
NEEDS = (8, 9)  # minimum compute capability


class Fp8Linear(nn.Module):
    """A linear layer with ``weight`` (out, in) and ``bias`` (out,), whose product runs in FP8."""

    weight8: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=SMALLEST) / LARGEST
        self.register_buffer("weight8", (weight.float() / scale).to(torch.float8_e4m3fn), persistent=False)
        self.register_buffer("scale", scale.T.contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp(min=SMALLEST) / LARGEST
        small = (rows.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        out = torch._scaled_mm(
            small, self.weight8.T, scale_a=scale, scale_b=self.scale, out_dtype=x.dtype, use_fast_accum=True
        )
        return (out + self.bias).view(*x.shape[:-1], -1)


def why_not(device: torch.device) -> str | None:
    """Why this device cannot run FP8 products, or None if it can."""
    if device.type != "cuda":
        return f"a {device.type} has no FP8 products: fp8 needs a GPU of compute capability {NEEDS[0]}.{NEEDS[1]}"
    found = torch.cuda.get_device_capability(device)
    return None if found >= NEEDS else f"fp8 needs compute capability {NEEDS[0]}.{NEEDS[1]}, this GPU has {found}"


@torch.no_grad()
def use_fp8(dit: CausalDiT) -> None:
    """Run the large products of all blocks in FP8 and free their original weights. For a frozen model on its device."""
    for block in dit.each_block():
        block.replace_products(Fp8Linear)
