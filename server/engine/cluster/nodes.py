"""Derive the workers of each cluster node from Ray's node list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.config import devices
from server.config.devices import Slot

Node = Mapping[str, Any]  # as ray.nodes() lists them
SHORT = 8  # characters of a node's id


def workers(nodes: Sequence[Node], parts: Sequence[str], threads: int) -> dict[str, tuple[str, Slot]]:
    """Worker name -> (node id, slot), for the nodes that are alive.

    ``parts`` is the parsed device setting; ``auto`` means all GPUs, or one CPU worker per node if the cluster has none.
    ``threads`` is per node; 0: all cores.
    """
    alive = [node for node in nodes if node["Alive"]]
    if tuple(parts) == ("auto",):
        parts = ("cuda",) if any(node["Resources"].get("GPU", 0) >= 1 for node in alive) else ("cpu",)
    found = {}
    for node in alive:
        for slot in _slots(node, parts, threads):
            found[slot.worker] = node["NodeID"], slot
    return found


def _slots(node: Node, parts: Sequence[str], threads: int) -> list[Slot]:
    """The workers of one node; none if it lacks the requested devices."""
    gpus, cores = int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0))
    try:
        there = devices.slots(parts, gpus, threads or max(1, cores))
    except ValueError:
        return []
    fitting = []
    for slot in there:  # Ray would let an actor without room wait for ever
        needed = len(slot.devices) if slot.device.startswith("cpu") else 0
        if needed <= cores:
            fitting.append(_renamed(node["NodeID"], slot))
            cores -= needed
    return fitting


def _renamed(node: str, slot: Slot) -> Slot:
    """The slot with a cluster-wide name; Ray shows each actor its own GPUs, counted from 0."""
    own = [f"cuda:{number}" for number in range(len(slot.devices))]
    device = devices.JOIN.join(own) if slot.device.startswith("cuda") else slot.device
    return Slot(f"{node[:SHORT]}-{slot.worker}", device, slot.threads, slot.memory_share)
