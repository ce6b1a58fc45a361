"""The device setting: which workers a server starts, one per list item. Parsing only; no device is probed.

auto            all visible GPUs, or one CPU worker if there are none
cuda            all visible GPUs
cuda:0,cuda:2   these two, as numbered within CUDA_VISIBLE_DEVICES
cpu, cpu:2      one CPU worker; two that share threads and memory
cuda:0,cpu      both kinds at once
cuda:0+cuda:1   one worker on both, which share every pass of the model: a group; cpu+cpu is one of two CPU processes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

ALLOWED = (
    "auto, cpu, cpu:N for N CPU workers, cuda for all GPUs, cuda:I for one of them, cuda:I+cuda:J for one worker on "
    "several, or a list like cuda:0,cuda:2"
)
JOIN = "+"
MOST_CPU_WORKERS = 1024
PART = re.compile(r"(cpu|cuda)(?::([0-9]{1,4}))?")


@dataclass(frozen=True)
class Slot:
    """Where one worker runs: ``worker`` is its number on this server, ``device`` its torch device, or those of a group
    joined by +."""

    worker: str
    device: str
    threads: int  # torch threads of each process
    memory_share: float  # of the device's free memory; below 1 if several workers share it

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of its group, the one with text encoder and video codec first."""
        return tuple(self.device.split(JOIN))


def parse(text: str) -> tuple[str, ...]:
    """Split a device setting into its items. Raises ValueError, which says what is allowed."""
    if text == "auto":
        return (text,)
    parts = tuple(JOIN.join(each.strip() for each in part.split(JOIN)) for part in text.split(","))
    for part in parts:
        members = part.split(JOIN)
        for member in members:
            _check(member)
        if len(members) > 1:
            _check_group(part, members)
    _refuse_doubles(parts)
    return parts


def _check(part: str) -> None:
    kind = PART.fullmatch(part)
    if kind is None:
        raise ValueError(f"{part!r} is not a device; allowed: {ALLOWED}")
    if kind[1] == "cpu" and kind[2] is not None and not 1 <= int(kind[2]) <= MOST_CPU_WORKERS:
        raise ValueError(f"{part!r} asks for {int(kind[2])} CPU workers; allowed: 1 to {MOST_CPU_WORKERS}")


def _check_group(group: str, members: Sequence[str]) -> None:
    """A group is of single GPUs, or of CPU processes."""
    if all(member == "cpu" for member in members) or all(member.startswith("cuda:") for member in members):
        return
    raise ValueError(f"{group!r} is not a group of devices; allowed are single GPUs, like cuda:0+cuda:1, or cpu+cpu")


def _refuse_doubles(parts: Sequence[str]) -> None:
    kinds = [part.partition(":")[0] for part in parts]  # a CPU group is of a kind of its own
    if kinds.count("cpu") > 1:
        raise ValueError(f"'cpu' is given twice; write the number of CPU workers in one item, like cpu:{len(parts)}")
    if "cuda" in parts and kinds.count("cuda") > 1:
        raise ValueError("'cuda' means all GPUs, so no other GPU may be listed; list single GPUs or write 'cuda' alone")
    gpus = [member for part in parts for member in part.split(JOIN) if member.startswith("cuda:")]
    numbers = [int(gpu.partition(":")[2]) for gpu in gpus]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"'cuda:{number}' is given twice; a GPU runs one worker")


def slots(parts: Sequence[str], gpus: int, threads: int, why_none: str = "") -> tuple[Slot, ...]:
    """The workers for these items on a machine with ``gpus`` GPUs; ``threads`` are divided among all workers.

    Raises ValueError for a GPU that does not exist; ``why_none`` explains why there is none at all.
    """
    devices = [device for part in parts for device in _workers(part, gpus, why_none)]
    processes = [member for device in devices for member in device.split(JOIN)]
    each = max(1, threads // len(processes))
    of_cpu = 1 / max(1, processes.count("cpu"))
    shares = [of_cpu if device.startswith("cpu") else 1.0 for device in devices]
    return tuple(
        Slot(str(n), device, each, share) for n, (device, share) in enumerate(zip(devices, shares, strict=True))
    )


def _workers(part: str, gpus: int, why_none: str) -> list[str]:
    """The devices of the workers of one item."""
    members = part.split(JOIN)
    if len(members) == 1:
        return _devices(part, gpus, why_none)
    return [JOIN.join(device for member in members for device in _devices(member, gpus, why_none))]


def _devices(part: str, gpus: int, why_none: str) -> list[str]:
    if part == "auto":
        part = "cuda" if gpus else "cpu"
    kind, _, number = part.partition(":")
    if kind == "cpu":
        return ["cpu"] * int(number or 1)
    if not gpus:
        raise ValueError(f"{part!r} was requested, but {why_none or 'torch sees no GPU'}; or choose cpu or auto")
    if not number:
        return [f"cuda:{index}" for index in range(gpus)]
    if int(number) >= gpus:
        seen = "only cuda:0" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"
        raise ValueError(f"'cuda:{int(number)}' was requested, but torch sees {seen}")
    return [f"cuda:{int(number)}"]
