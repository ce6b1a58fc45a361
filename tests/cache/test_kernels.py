"""Promise: the fused kernel equals its plain twin, in Triton's interpreter without a GPU, and compiles for three
GPUs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds only")

RUN = """
import torch
from cache.copies import copies_among as plainly
from cache.kernels import copies_among
torch.manual_seed(0)
cases = (300, 96, 0, torch.float32), (200, 128, 131, torch.float16), (9, 64, 6, torch.float32)
for tokens, width, first, dtype in cases:
    keys = torch.nn.functional.normalize(torch.randn(tokens, width), dim=1).to(dtype)
    latents = torch.randint(0, 9, (tokens,)).sort().values
    ours, theirs = copies_among(keys, keys[first:], latents), plainly(keys.float(), keys[first:].float(), latents)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)
    assert ours[1].equal(theirs[1]) and float(theirs[0].max()) > 0.1
"""
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cache.config import NEAREST
from cache.kernels import COLUMNS, DEPTH, ROWS, _copies_among
tile = {"width": 1536, "PARTS": NEAREST, "ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
given = {"keys": "*bf16", "directions": "*bf16", "latents": "*i64", "products": "*fp32", "places": "*i32"}
given |= dict.fromkeys(("tokens", "first", "part"), "i32")
for capability in (80, 90, 100):
    source = ASTSource(fn=_copies_among, signature=given | dict.fromkeys(tile, "constexpr"), constexprs=tile)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8, "num_stages": 3})
    assert f".target sm_{capability}" in made.asm["ptx"]
"""


@pytest.mark.parametrize(("code", "interpreted"), [(RUN, "1"), (COMPILE, "0")], ids=["runs", "compiles"])
def test_the_fused_kernel(code: str, interpreted: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": interpreted}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
