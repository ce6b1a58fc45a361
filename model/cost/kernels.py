"""Peak rates of a device, and the times of single kernels: what a model's speed is compared with."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cache import copies
from model.spec import ModelSpec
from model.transformer import attention
from model.transformer.fp8 import Fp8Linear, why_not

REPEATS = 10
SIZE = 8192  # of the square products that measure a device's peak rate
COPIED = 2**30


class Clock:
    """Milliseconds of device time per call: the median of several calls."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, work: Callable[[], object], repeats: int = REPEATS) -> float:
        for _ in range(3):
            work()
        took = []
        for _ in range(repeats):
            wait(self._device)
            began = time.perf_counter()
            work()
            wait(self._device)
            took.append(1e3 * (time.perf_counter() - began))
        return statistics.median(took)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceilings(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The device's peak rates: products (TFLOP/s), copies (GB/s read and written), attention by kernel."""
    clock, on_gpu = Clock(device), device.type == "cuda"
    size = SIZE if on_gpu else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    found: dict[str, Any] = {"matmul_tflops": 2 * size**3 / clock(lambda: a @ b) / 1e9}
    x = torch.randn(spec.tokens_per_chunk, spec.dim, device=device, dtype=dtype)
    w = torch.randn(spec.ffn_dim, spec.dim, device=device, dtype=dtype)
    flop = 2 * spec.tokens_per_chunk * spec.dim * spec.ffn_dim
    found["ffn_tflops"] = flop / clock(lambda: F.linear(x, w)) / 1e9
    if why_not(device) is None:
        found |= attempt("fp8", lambda: fp8_ceilings(x, w, flop, clock))
    source = torch.empty(COPIED if on_gpu else COPIED // 16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2 * source.numel() / clock(lambda: target.copy_(source)) / 1e6
    return found


def fp8_ceilings(x: Tensor, w: Tensor, flop: int, clock: Clock) -> dict[str, float]:
    layer = Fp8Linear(w, torch.zeros(w.shape[0], device=w.device, dtype=w.dtype))
    small = x.to(torch.float8_e4m3fn)
    scale = torch.ones(len(x), 1, device=x.device)

    def product() -> Tensor:
        return torch._scaled_mm(
            small, layer.weight8.T, scale_a=scale, scale_b=layer.scale, out_dtype=x.dtype, use_fast_accum=True
        )

    exact = F.linear(x, w)
    error = float((layer(x) - exact).float().norm() / exact.float().norm())
    return {"fp8_ffn_tflops": flop / clock(product) / 1e9, "fp8_product_error": error}


def attention_kernels(spec: ModelSpec, device: torch.device, dtype: torch.dtype, budget: float) -> dict[str, float]:
    """TFLOP/s of a chunk's attention over a full cache, by kernel; ``attend`` then uses the fastest."""
    chunk, heads, width = spec.tokens_per_chunk, spec.num_heads, spec.head_dim
    tokens = chunk + round(budget * spec.tokens_per_latent)
    q = torch.randn(1, chunk, heads, width, device=device, dtype=dtype)
    k, v = (torch.randn(1, tokens, heads, width, device=device, dtype=dtype) for _ in range(2))
    took = attention.choose_kernel(q, k, v)
    return {name: 4 * chunk * tokens * heads * width / ms / 1e9 for name, ms in took.items()}


def redundancy_kernels(spec: ModelSpec, device: torch.device, dtype: torch.dtype, budget: float) -> dict[str, Any]:
    """One layer's pruning product over a full cache: plain, fused, and whether they agree."""
    tokens = spec.tokens_per_chunk + round(budget * spec.tokens_per_latent)
    directions = F.normalize(torch.randn(tokens, spec.dim, device=device), dim=1).to(dtype)
    latents = torch.arange(tokens, device=device) // spec.tokens_per_latent
    clock = Clock(device)
    newest = directions[-spec.tokens_per_chunk :]
    found: dict[str, Any] = {"plain_ms": clock(lambda: copies.copies_among(directions, newest, latents))}
    fused = copies.fused_copies(device)
    if fused is None:
        return found
    exact, ours = copies.copies_among(directions.float(), newest.float(), latents), fused(directions, newest, latents)
    found["largest_difference"] = float((exact[0] - ours[0]).abs().max())
    found["fused_ms"] = clock(lambda: fused(directions, newest, latents))
    return found


def attempt(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result, or the reason of its failure, so that one failure does not stop the suite."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc()
        return {f"{what}_failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
