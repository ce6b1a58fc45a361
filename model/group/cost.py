"""What a group of devices sends per chunk, and a group for counting: ``python -m model.group.cost [MODEL] [LATENTS]``.

The passes of one process run on torch's meta device, where tensors have sizes but no memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cache.config import CacheConfig
from model.group.ulysses import Ulysses
from model.spec import ModelSpec, spec_named
from model.stream.session_cache import new_cache
from model.transformer.asking import AskingHead
from model.transformer.attention import Angles, rotate_by_time
from model.transformer.dit import CausalDiT
from model.transformer.passes import Given
from model.transformer.positions import grid_positions
from model.transformer.salience import SalienceHead
from model.weights import LoadedModel

META = torch.device("meta")
GB = 1e9
POLICIES = ("window", "attention", "value_novelty", "salience", "pafu", "asked")
USUAL = ("wan2.1-14b", "6")


class CountedGroup(Ulysses):
    """The first process of a group that does not exist: it makes what it would receive, and counts the bytes that it
    would send (``sent``). Reductions and broadcasts count as in a ring."""

    def __init__(self, size: int) -> None:
        super().__init__(0, size)
        self.sent = 0

    def mean(self, x: Tensor) -> Tensor:
        self.sent += 2 * x.nbytes * (self.size - 1) // self.size
        return x / self.size

    def agreed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.sent += sum(each.nbytes for each in tensors)
        return list(tensors)

    def _exchanged(self, sent: Tensor) -> Tensor:
        sent = sent.contiguous()
        self.sent += sent.nbytes * (self.size - 1) // self.size
        return torch.zeros_like(sent)

    def _scattered(self, sent: Tensor, sizes: list[int], received: int) -> Tensor:
        self.sent += sent.nbytes * (self.size - 1) // self.size
        return sent.new_zeros(self.size * received)

    def _gathered(self, x: Tensor) -> list[Tensor]:
        self.sent += x.nbytes * (self.size - 1)
        return [torch.zeros_like(x) for _ in range(self.size)]


def sent_per_chunk(spec: ModelSpec, cache: CacheConfig, devices: int) -> dict[str, int]:
    """Bytes that each process sends in the passes of a chunk over a full cache ("passes"), and in its pruning."""
    group = CountedGroup(devices)
    with torch.inference_mode():
        model = _on_meta(spec, group)
        held, passes = new_cache(model, cache, 0, shared=True), model.passes
        held._store.kept = list(held._store.budgets)
        held.begin_chunk(grid_positions(spec, 30, spec.chunk_latents)[0].to(META), rotate_by_time(spec))
        context = model.dit.encode_context(torch.empty(1, 1, spec.text_len, spec.text_dim, device=META))
        control = torch.empty(1, spec.chunk_latents, spec.control_dim, device=META) if spec.control_dim else None
        given = Given(context, control, Angles.of(held.chunk_positions(), spec))
        latents = torch.empty(1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        latents = latents.to(META)
        for timestep in spec.timesteps:
            passes.run(held, latents, timestep, given, last=False)
        one = group.sent // len(spec.timesteps)
        evidence = passes.run(held, latents, 0.0, given, last=True).evidence
        assert evidence is not None
        held.commit(evidence)
    whole = one * (len(spec.timesteps) + 1)
    return {"passes": whole, "pruning": group.sent - whole}


def _on_meta(spec: ModelSpec, group: CountedGroup) -> LoadedModel:
    with META:
        dit, salience, asking = CausalDiT(spec), SalienceHead(spec), AskingHead(spec)
    for part in (dit, salience, asking):
        part.bfloat16().requires_grad_(False)
    dit.group = group
    nothing: Any = None
    return LoadedModel(spec, dit, nothing, nothing, META, torch.bfloat16, "meta", salience, asking)


def table(spec: ModelSpec, budget: float) -> Iterable[str]:
    """Lines of a Markdown table: GB that each device sends per chunk."""
    sizes = [size for size in (2, 4, 8) if spec.why_not_shared(size) is None]
    yield f"| {spec.name}, {spec.width}x{spec.height}, budget {budget:g} | " + " | ".join(f"{n} devices" for n in sizes)
    for policy in POLICIES:
        cache = CacheConfig.filled_in(policy, budget, None, None, spec.chunk_latents)
        counted = [sent_per_chunk(spec, cache, size) for size in sizes]
        cells = (f"{each['passes'] / GB:.1f} + {each['pruning'] / GB:.2f}" for each in counted)
        yield f"| {policy} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    name, latents = (*sys.argv[1:], *USUAL[len(sys.argv) - 1 :])
    for line in table(spec_named(name), float(latents)):
        print(line, flush=True)
