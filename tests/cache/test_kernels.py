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
from cache.kernels import highest_cosines
from cache.scoring import highest_cosines as plainly
torch.manual_seed(0)
for tokens, width, dtype in ((300, 96, torch.float32), (200, 128, torch.float16)):
    directions = torch.nn.functional.normalize(torch.randn(tokens, width), dim=1).to(dtype)
    latents = torch.randint(0, 9, (tokens,)).sort().values
    ours, theirs = highest_cosines(directions, latents), plainly(directions.float(), latents)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert float(theirs.max()) > 0.2
"""
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cache.kernels import COLUMNS, DEPTH, ROWS, _highest_cosines
tile = {"width": 1536, "ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
given = {"directions": "*bf16", "latents": "*i64", "highest": "*fp32", "tokens": "i32"}
for capability in (80, 90, 100):
    source = ASTSource(fn=_highest_cosines, signature=given | dict.fromkeys(tile, "constexpr"), constexprs=tile)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8, "num_stages": 3})
    assert f".target sm_{capability}" in made.asm["ptx"]
"""


@pytest.mark.parametrize(("code", "interpreted"), [(RUN, "1"), (COMPILE, "0")], ids=["runs", "compiles"])
def test_the_fused_kernel(code: str, interpreted: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": interpreted}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
