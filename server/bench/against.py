"""Compare this checkout with another one, in alternating chunks, so that fluctuations of the machine affect both.

Each side is a process that streams with the shipped weights and generates one chunk on request.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 6  # chunks until the cache is full and all code has run once
SIDE = """
import sys, time, torch
from cache.config import CacheConfig
from model.stream import VideoStream
from model.weights import load_model
name, policy, budget, threads, dtype = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.set_grad_enabled(False)
model = load_model(name, dtype=getattr(torch, dtype))
cache = CacheConfig(policy=policy, budget_latents=float(budget), sink_latents=0.0, recent_latents=1.5,
                    position_mode="relative")
stream = VideoStream(model, "a meadow by day, a red mill and a tree; the camera pans right", 1, cache)
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    pictures = len(stream.next_chunk().pictures)
    print(pictures, time.perf_counter() - began, flush=True)
"""


class AgainstError(RuntimeError):
    """A checkout cannot be measured; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Median pictures per second of both sides, over ``chunks`` alternating chunks."""

    ours: float
    theirs: float
    chunks: int

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


class Side:
    """The process of one checkout."""

    def __init__(self, root: Path, given: Sequence[str]) -> None:
        self._root = root
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); exec({SIDE!r})", *given],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._expect()

    def _expect(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            last = said.strip().splitlines()[-1] if said.strip() else "it exited without output"
            raise AgainstError(f"{self._root} cannot be measured: {last}")
        return line

    def chunk(self) -> float:
        """Generate the next chunk; its pictures per second."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pictures, seconds = self._expect().split()
        return int(pictures) / float(seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def compare(root: Path, model: str, policy: str, budget: float, threads: int, dtype: str, chunks: int) -> Comparison:
    """Compare this checkout with the one in ``root``. Raises AgainstError."""
    if not (root / "model" / "stream.py").is_file():
        raise AgainstError(f"{root} is not a checkout of Pafu: it has no model/stream.py")
    given = (model, policy, str(budget), str(threads), dtype)
    here = Path(__file__).parents[2]
    sides: list[Side] = []
    try:
        sides += [Side(here, given), Side(root.resolve(), given)]
        for _ in range(WARM_UP):
            for side in sides:
                side.chunk()
        rates: list[tuple[float, float]] = [(sides[0].chunk(), sides[1].chunk()) for _ in range(chunks)]
    finally:
        for side in sides:
            side.close()
    ours, theirs = (statistics.median(side) for side in zip(*rates, strict=True))
    return Comparison(ours, theirs, chunks)
