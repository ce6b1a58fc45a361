"""Roll-outs of a small Wan that one process runs alone and several run together; as a program, one process of a group:
``python group_rollouts.py RANK SIZE MEETING OUT CASE...``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cache.config import RECALLING, SERVED_POLICIES, CacheConfig
from model.camera import CameraState
from model.group.shared_parts import shared
from model.group.ulysses import join
from model.spec import TEST_TINY_WAN
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, random_model

SPEC = dataclasses.replace(TEST_TINY_WAN, dim=128, recache_chunks=2, redraws=False, width=128, height=128)
USUAL = CacheConfig(policy="pafu", budget_latents=5, sink_latents=1, recent_latents=1, position_mode="relative")
CASES = {policy: {"policy": policy} for policy in SERVED_POLICIES} | {
    "window": {"policy": "window", "sink_latents": 0},
    "full": {"policy": "full", "budget_latents": 24},
    **{policy: {"policy": policy, "host_latents": 6} for policy in RECALLING},
    "int8": {"kv_dtype": "int8"},
    "int4": {"policy": "value_novelty", "kv_dtype": "int4"},
    "uneven": {"policy": "value_novelty"},
}
FORGOTTEN = (1, 60, 20)  # oldest tokens that layers of "uneven" lose, so that one layer need not be pruned
CHUNKS, CHANGE = 5, 3


def stream(model: LoadedModel, case: str) -> VideoStream:
    return VideoStream(model, "a red house", 7, dataclasses.replace(USUAL, **CASES[case]))


def rolled(model: LoadedModel, case: str) -> Iterator[tuple[str, Tensor]]:
    """Latents (chunks, 1, F, C, h, w), and the numbers of the tokens that are kept at the end."""
    film = stream(model, case)
    latents = []
    for index in range(CHUNKS):
        if index == CHANGE and case == "uneven":
            film.cache.forget([torch.arange(len(each)) < FORGOTTEN[layer] for layer, each in kept(film)])
        elif index == CHANGE:
            film.set_prompt("a blue tower at night")
        latents.append(film.next_latents().past.latents)
    film.cache.check_integrity()
    yield f"{case}.latents", torch.stack(latents)
    yield f"{case}.kept", torch.cat([numbers for _, numbers in kept(film)])


def kept(film: VideoStream) -> Iterator[tuple[int, Tensor]]:
    """Layers, and the numbers of the tokens that they keep."""
    return iter(enumerate(film.cache.retained_numbers()))


def carried_on(model: LoadedModel) -> Iterator[tuple[str, Tensor]]:
    """A stream that is continued from its snapshot, and one from its latents, after a start with a picture."""
    film = stream(model, "pafu")
    film.begin_with(torch.arange(SPEC.height * SPEC.width * 3).view(SPEC.height, SPEC.width, 3).to(torch.uint8))
    past = [film.next_latents().past for _ in range(3)]
    snapshot = film.snapshot()
    yield "snapshot", torch.frombuffer(bytearray(snapshot), dtype=torch.uint8)
    yield "restored", VideoStream.restore(model, snapshot_of_the_first(model, snapshot)).next_latents().past.latents
    again = stream(model, "pafu")
    again.recall(past, 3, CameraState())
    yield "recalled", again.next_latents().past.latents


def snapshot_of_the_first(model: LoadedModel, snapshot: bytes) -> bytes:
    """The snapshot of the process with the codec, as the server hands it to all."""
    held = torch.frombuffer(bytearray(snapshot), dtype=torch.uint8)
    size = model.dit.group.agreed([torch.tensor([len(held)])])[0]
    whole = held if model.dit.group.leads else torch.zeros(int(size), dtype=torch.uint8)
    return model.dit.group.agreed([whole])[0].numpy().tobytes()


def everything(model: LoadedModel, cases: Iterable[str]) -> dict[str, Tensor]:
    """Roll-outs by name; nothing of them differs between alone and together but rounding."""
    found = dict(pair for case in cases for pair in rolled(model, case))
    return found | dict(carried_on(model))


def main(rank: int, size: int, meeting: Path, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    group = join(rank, size, meeting, torch.device("cpu"), 60.0)
    model = shared(random_model(SPEC, seed=0, dtype=torch.float32), group)
    save_file(everything(model, cases), out)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
