"""Which workers the nodes of a cluster have: pure reading of what Ray tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.config import devices
from server.config.devices import Slot

Node = Mapping[str, Any]  # as ray.nodes() lists them
SHORT = 8  # characters of a node's id


def workers(nodes: Sequence[Node], parts: Sequence[str], threads: int) -> dict[str, tuple[str, Slot]]:
    """For each worker by name its node's id and its slot. ``parts`` is the device setting, ``threads`` those of one
    node, 0: its cores. ``auto`` means all GPUs, or where the cluster has none a CPU worker on each node."""
    alive = [node for node in nodes if node["Alive"]]
    if tuple(parts) == ("auto",):
        parts = ("cuda",) if any(node["Resources"].get("GPU", 0) >= 1 for node in alive) else ("cpu",)
    found = {}
    for node in alive:
        for slot in _slots(node, parts, threads):
            found[slot.worker] = node["NodeID"], slot
    return found


def _slots(node: Node, parts: Sequence[str], threads: int) -> list[Slot]:
    """The workers of one node; none where it lacks what was asked for. Ray shows an actor its own GPU as the first."""
    gpus, cores = int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0))
    try:
        there = devices.slots(parts, gpus, threads or max(1, cores))
    except ValueError:
        return []
    if not cores:
        there = tuple(slot for slot in there if slot.device != "cpu")
    return [_renamed(node["NodeID"], slot) for slot in there]


def _renamed(node: str, slot: Slot) -> Slot:
    device = "cuda:0" if slot.device.startswith("cuda") else slot.device
    return Slot(f"{node[:SHORT]}-{slot.worker}", device, slot.threads, slot.memory_share)
