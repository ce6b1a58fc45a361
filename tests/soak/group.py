"""A chunk's passes in one process with two threads, and in a group of two processes with one thread each, in turns:
``python tests/soak/group.py [ROUNDS]``. Prints medians, and fails if the two make different latents."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cache.config import CacheConfig  # noqa: E402
from model.group.shared_parts import shared  # noqa: E402
from model.group.ulysses import join  # noqa: E402
from model.spec import TEST_TINY_WAN  # noqa: E402
from model.stream.video_stream import VideoStream  # noqa: E402
from model.weights import random_model  # noqa: E402

SPEC = dataclasses.replace(  # a quarter of Wan2.1 1.3B in depth and half in width, at a quarter of its size
    TEST_TINY_WAN,
    name="half-wan",
    dim=768,
    ffn_dim=4480,
    num_heads=12,
    num_layers=8,
    freq_dim=256,
    redraws=False,
    width=512,
    height=256,
)
CACHE = CacheConfig(policy="pafu", budget_latents=6, sink_latents=0, recent_latents=1, position_mode="relative")
FILL, COUNTED = 3, 3
SAME = 1e-4  # of latents of about 1


def one_process(rank: int, size: int, meeting: Path) -> None:
    """A process of a group, or one alone; the first prints the seconds of its passes and the last latents."""
    torch.set_num_threads(2 // size)
    model = random_model(SPEC, seed=0, dtype=torch.float32)
    if size > 1:
        model = shared(model, join(rank, size, meeting, torch.device("cpu"), 600.0))
    stream, taken = VideoStream(model, "a red house", 1, CACHE), []
    for _ in range(FILL + COUNTED):
        chunk = stream.next_latents()
        taken.append(sum(chunk.stats.seconds[stage] for stage in ("denoise", "clean", "prune")))
    if rank == 0:
        print(json.dumps([taken[FILL:], chunk.past.latents.flatten()[:4096].tolist()]))


def measured(size: int) -> tuple[list[float], torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--rank"]
        processes = [
            subprocess.Popen([*command, str(rank), str(size), f"{folder}/meeting"], stdout=subprocess.PIPE, text=True)
            for rank in range(size)
        ]
        said = [process.communicate()[0] for process in processes]
    seconds, latents = json.loads(said[0])
    return seconds, torch.tensor(latents)


def main(rounds: int) -> None:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        latents = {}
        for size, found in seconds.items():
            taken, latents[size] = measured(size)
            found += taken
        apart = float((latents[1] - latents[2]).abs().max())
        if apart > SAME:
            raise SystemExit(f"the group's latents differ by {apart}")
    for size, found in seconds.items():
        name = "one process, two threads" if size == 1 else "two processes, one thread each"
        print(f"{name}: median {statistics.median(found):.2f} s a chunk (from {min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--rank", nargs=3, metavar=("RANK", "SIZE", "MEETING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank, size, meeting = options.rank
        one_process(int(rank), int(size), Path(meeting))
    else:
        main(options.rounds)
