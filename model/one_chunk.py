"""One chunk of a model at its full size, of random weights: that it runs here, how long it takes, what memory it takes.

``python -m model.one_chunk [MODEL] [WIDTHxHEIGHT]``. The pictures mean nothing; the text encoder is a tiny one.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time

import torch

from cache.config import CacheConfig
from model.spec import ModelSpec, spec_named
from model.stream import VideoStream
from model.weights import preferred_dtype, random_model

GIB = 2**30


def run(spec: ModelSpec, chunks: int = 2) -> list[str]:
    """Make ``chunks`` chunks; a line about the model and one about each."""
    spec, dtype = dataclasses.replace(spec, text_encoder="umt5-tiny"), preferred_dtype("cpu")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # weights are made as they are used: never a second copy of another width
    try:
        model = random_model(spec, seed=0, dtype=dtype)
    finally:
        torch.set_default_dtype(usual)
    parameters = sum(parameter.numel() for parameter in model.dit.parameters())
    lines = [
        f"{spec.name} at {spec.width}x{spec.height}, {dtype}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}: {parameters:,} parameters, {_peak():.1f} GiB after loading"
    ]
    cache = CacheConfig.filled_in("sink_window", 6.0, None, None, spec.chunk_latents)
    stream = VideoStream(model, "a cat walks on the grass", 1, cache)
    for index in range(chunks):
        began = time.perf_counter()
        chunk = stream.next_chunk()
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in chunk.stats.seconds.items())
        took = f"{time.perf_counter() - began:.1f} s ({stages})"
        lines.append(f"chunk {index}: {len(chunk.pictures)} pictures in {took}, {_peak():.1f} GiB at most")
    return lines


def _peak() -> float:
    """Of this process so far, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main(arguments: list[str]) -> None:
    name, size = (*arguments, *("wan2.1-1.3b", "256x128")[len(arguments) :])
    width, height = (int(side) for side in size.split("x"))
    print("\n".join(run(spec_named(name).at(width, height))))


if __name__ == "__main__":
    main(sys.argv[1:])
