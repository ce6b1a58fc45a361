"""Sequence parallelism over torch.distributed: the processes of a group exchange tokens against heads (Ulysses).

One exchange before attention and one after it; between them attention and the cache of one process need nothing of the
others. Source: DeepSpeed-Ulysses (2309.14509).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from cache.group import Group


class Ulysses(Group):
    """This process in its group. A call waits for the others' and raises RuntimeError if one does not come in time."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def own_tokens(self, x: Tensor, dim: int) -> Tensor:
        own: Tensor = x.unflatten(dim, (-1, self.size)).select(dim + 1, self.rank)
        return own

    def all_tokens(self, x: Tensor, dim: int) -> Tensor:
        return torch.stack(self._gathered(x), dim + 1).flatten(dim, dim + 1)

    def to_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sent = torch.stack([each.unflatten(2, (self.size, -1)) for each in (q, k, v)])  # 3 B S/size size H/size D
        held = self._exchanged(sent.permute(3, 0, 1, 2, 4, 5))  # size 3 B S/size H/size D
        q, k, v = held.permute(1, 2, 3, 0, 4, 5).flatten(2, 3).unbind(0)
        return q, k, v

    def to_tokens(self, x: Tensor) -> Tensor:
        held = self._exchanged(x.unflatten(1, (-1, self.size)).permute(2, 0, 1, 3, 4))  # size B S/size H/size D
        return held.permute(1, 2, 0, 3, 4).flatten(2, 3)

    def own_heads(self, x: Tensor, dim: int = -2) -> Tensor:
        return x.chunk(self.size, dim)[self.rank]

    def all_heads(self, x: Tensor, dim: int = -2) -> Tensor:
        return torch.cat(self._gathered(x), dim)

    def mean(self, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / self.size

    def dealt(self, layers: Sequence[Tensor]) -> Tensor:
        sent = torch.cat([each.flatten() for each in layers])
        own = layers[self.rank]
        held = self._scattered(sent, [each.numel() for each in layers], own.numel())
        return torch.cat(held.view(self.size, *own.shape).unbind(0), -2)

    def collected(self, own: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        longest = max(lengths)
        padded = torch.stack([F.pad(each, (*(0, 0) * (each.dim() - 1), 0, longest - len(each))) for each in own])
        found = self._gathered(padded)
        places = (divmod(layer, self.size) for layer in range(len(lengths)))
        return [found[rank][turn, :length] for (turn, rank), length in zip(places, lengths, strict=True)]

    def all(self, flag: Tensor) -> Tensor:
        return self.mean(flag.float()) == 1

    def agreed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        told = torch.cat([each.flatten() for each in tensors])
        dist.broadcast(told, 0)
        parts = told.split([each.numel() for each in tensors])
        return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]

    def _exchanged(self, sent: Tensor) -> Tensor:
        """Sends sent[p] to process p, and returns what each sent to this one, in the same shape."""
        sent = sent.contiguous()
        held = torch.empty_like(sent)
        dist.all_to_all_single(held, sent)
        return held

    def _scattered(self, sent: Tensor, sizes: list[int], received: int) -> Tensor:
        """Sends ``sizes`` numbers of ``sent`` (n,) to the processes; each sends ``received`` numbers back."""
        held = sent.new_empty(self.size * received)
        dist.all_to_all_single(held, sent, [received] * self.size, sizes)
        return held

    def _gathered(self, x: Tensor) -> list[Tensor]:
        held = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(held, x.contiguous())
        return held


def join(rank: int, size: int, meeting: Path, device: torch.device, patience: float) -> Ulysses:
    """Join the group, whose processes are on this machine and meet at the file ``meeting``. An exchange that takes
    longer than ``patience`` seconds fails. Raises RuntimeError if the others do not come."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    for setting in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if loopback is not None:
            os.environ.setdefault(setting, loopback)  # else they listen on the network
    gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=dist.FileStore(str(meeting), size),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=patience),
        device_id=device if gpu else None,
    )
    return Ulysses(rank, size)


def leave() -> None:
    """Forget a group of CPUs whose other processes have ended, so that this process can join another."""
    if dist.is_initialized() and dist.get_backend() == "gloo":  # NCCL would wait for the others
        dist.destroy_process_group()
