"""Generates chunks of a model at full size with random weights: shows that it runs here, and measures time and memory.

``python -m model.cost.one_chunk [MODEL] [WIDTHxHEIGHT]``. The pictures are meaningless; the text encoder is a tiny one.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Iterator

import torch
from rich.progress import track

from cache.config import CacheConfig
from model.spec import ModelSpec, SpecError, size_of, spec_named
from model.stream.video_stream import VideoStream
from model.weights import preferred_dtype, random_model

GIB = 2**30
USUAL = ("wan2.1-1.3b", "160x96")


def run(spec: ModelSpec, chunks: int = 2) -> Iterator[str]:
    """Generate ``chunks`` chunks. Yields a line about the model, then one about each chunk."""
    spec, dtype = dataclasses.replace(spec, text_encoder="umt5-tiny"), preferred_dtype("cpu")
    began = time.perf_counter()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # create the weights in their final dtype, so that there is never a second copy
    try:
        model = random_model(spec, seed=0, dtype=dtype)
    finally:
        torch.set_default_dtype(usual)
    parameters = sum(parameter.numel() for parameter in model.dit.parameters())
    yield (
        f"{spec.name} at {spec.width}x{spec.height}, {dtype}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}: {parameters:,} parameters made in {time.perf_counter() - began:.0f} s, {_peak():.1f} GiB"
    )
    cache = CacheConfig.filled_in("sink_window", 6.0, None, None, spec.chunk_latents)
    stream = VideoStream(model, "a cat walks on the grass", 1, cache)
    for index in range(chunks):
        began = time.perf_counter()
        passes = iter(track(range(len(spec.schedule(index)) + 1), f"passes of chunk {index}", transient=True))
        chunk = stream.next_chunk(lambda passes=passes: next(passes))  # type: ignore[misc]
        next(passes, None)
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in chunk.stats.seconds.items())
        took = f"{time.perf_counter() - began:.1f} s ({stages})"
        yield f"chunk {index}: {len(chunk.pictures)} pictures in {took}, {_peak():.1f} GiB at most"


def _peak() -> float:
    """Peak resident memory of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main(arguments: list[str]) -> None:
    """The command line: MODEL and WIDTHxHEIGHT are optional."""
    name, size = (*arguments, *USUAL[len(arguments) :])
    try:
        spec = spec_named(name).at(*size_of(size))
    except SpecError as error:
        raise SystemExit(f"python -m model.cost.one_chunk [MODEL] [WIDTHxHEIGHT]: {error}") from error
    for line in run(spec):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
