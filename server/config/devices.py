"""The device setting: which workers one server starts, one for each part of a list. Pure text; nothing is looked for.

auto            all GPUs that this machine shows, or else one CPU worker
cuda            all GPUs that this machine shows
cuda:0,cuda:2   these two; numbers are those of CUDA_VISIBLE_DEVICES
cpu, cpu:2      one CPU worker, two that share threads and memory
cuda:0,cpu      both kinds at once
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

ALLOWED = "auto, cpu, cpu:N for N CPU workers, cuda for all GPUs, cuda:I for one of them, or a list like cuda:0,cuda:2"
MOST_CPU_WORKERS = 1024
PART = re.compile(r"(cpu|cuda)(?::([0-9]{1,4}))?")


@dataclass(frozen=True)
class Slot:
    """One worker's place: ``worker`` is its number on this server, ``device`` what torch calls its device."""

    worker: str
    device: str
    threads: int  # of torch
    memory_share: float  # of what its device has free; below 1 where several workers share the memory


def parse(text: str) -> tuple[str, ...]:
    """The parts of a device setting. Raises ValueError: what is wrong with it, and what is allowed."""
    if text == "auto":
        return (text,)
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        kind = PART.fullmatch(part)
        if kind is None:
            raise ValueError(f"{part!r} is no device; allowed: {ALLOWED}")
        if kind[1] == "cpu" and kind[2] is not None and not 1 <= int(kind[2]) <= MOST_CPU_WORKERS:
            raise ValueError(f"{part!r} means {int(kind[2])} CPU workers; allowed: 1 to {MOST_CPU_WORKERS}")
    _refuse_doubles(parts)
    return parts


def _refuse_doubles(parts: Sequence[str]) -> None:
    kinds = [part.partition(":")[0] for part in parts]
    if kinds.count("cpu") > 1:
        raise ValueError(f"the CPU is given twice; say how many workers it has in one part, like cpu:{len(parts)}")
    if "cuda" in parts and kinds.count("cuda") > 1:
        raise ValueError("'cuda' stands for all GPUs, so a GPU beside it is given twice; name all of them or none")
    numbers = [int(part.partition(":")[2]) for part in parts if part.startswith("cuda:")]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"'cuda:{number}' is given twice; a GPU has one worker")


def slots(parts: Sequence[str], gpus: int, threads: int, why_none: str = "") -> tuple[Slot, ...]:
    """The workers that these parts mean on a machine that shows so many ``gpus`` and has so many ``threads`` for all
    workers together. Raises ValueError for a GPU that is not there; ``why_none`` says why there are none."""
    devices = [device for part in parts for device in _devices(part, gpus, why_none)]
    each = max(1, threads // len(devices))
    shares = {"cpu": 1 / max(1, devices.count("cpu"))}
    return tuple(Slot(str(number), device, each, shares.get(device, 1.0)) for number, device in enumerate(devices))


def _devices(part: str, gpus: int, why_none: str) -> list[str]:
    if part == "auto":
        part = "cuda" if gpus else "cpu"
    kind, _, number = part.partition(":")
    if kind == "cpu":
        return ["cpu"] * int(number or 1)
    if not gpus:
        raise ValueError(f"{part!r} was asked for, but {why_none or 'torch sees no GPU'}; or choose cpu or auto")
    if not number:
        return [f"cuda:{index}" for index in range(gpus)]
    if int(number) >= gpus:
        seen = "cuda:0 alone" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"
        raise ValueError(f"'cuda:{int(number)}' was asked for, but torch sees {seen}")
    return [f"cuda:{int(number)}"]
