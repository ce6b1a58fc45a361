"""One process or several (torchrun): ranks, sharded weights (FSDP), and averaged gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.transformer.dit import CausalDiT, Context


def start(device: str) -> tuple[int, int, torch.device]:
    """(rank, number of processes, own device). Under torchrun this opens the process group: NCCL for GPUs, else
    Gloo."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1, torch.device(device)
    cuda = torch.device(device).type == "cuda"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device(device)
    if cuda:
        torch.cuda.set_device(own)
    return dist.get_rank(), world, own


def stop() -> None:
    """Close the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true in any process. All processes must ask: sharded passes need all of them."""
    if not dist.is_initialized():
        return flag
    given = torch.tensor([int(flag)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(given, op=dist.ReduceOp.MAX)
    return bool(given.item())


def shard(dit: CausalDiT) -> None:
    """Shard the weights over all processes (FSDP): each holds a part, and a block is gathered when it runs."""
    if not dist.is_initialized():
        return
    from torch.distributed.fsdp import fully_shard

    for block in dit.blocks:
        fully_shard(block)
    fully_shard(dit)


def encode_context(dit: CausalDiT, text: Tensor) -> Context:
    """``dit.encode_context``, also for a sharded transformer, whose weights must be gathered outside ``forward``."""
    sharded = [module for module in (dit, *dit.blocks) if hasattr(module, "unshard")]
    for module in sharded:
        module.unshard()
    context = dit.encode_context(text)
    for module in sharded:
        module.reshard()
    return context


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes; parameters are replicated."""
    if not dist.is_initialized():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
