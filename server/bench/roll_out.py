"""One side of a comparison with the reference implementation, as a process of its own: roll-outs on random weights.

``python -m server.bench.roll_out SIDE SETUP``: SIDE is ``pafu`` or the folder of a Self-Forcing checkout, SETUP is JSON
of ``Setup``. It prints a few latents of the first chunk, which both sides compute alike. Then, for every line of stdin,
which names a cache, it makes one chunk and prints the seconds. Denoising, clean pass and pruning count; text and
decoding do not.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import msgspec
import torch
from torch import Tensor

from cache.config import CacheConfig
from model.cost.kernels import wait
from model.cost.speed import RandomText
from model.spec import ModelSpec, spec_named
from model.stream.video_stream import CLEAN, SEED_PRIME, VideoStream
from model.transformer.dit import CausalDiT, open_gates
from model.transformer.packed import can_pack, pack
from model.transformer.salience import SalienceHead
from model.transformer.sampler import denoise
from model.weights import LoadedModel

SEED, SHOWN = 1, 16
WHOLE = 21  # latent frames of the reference's full cache, the current chunk included
EQUAL = "equal attention"


class Setup(msgspec.Struct):
    """What both sides compute. ``layers`` and the size make a small model of a large one's width."""

    model: str
    layers: int
    width: int
    height: int
    dtype: str
    device: str
    threads: int

    @property
    def spec(self) -> ModelSpec:
        """The model at this size."""
        return dataclasses.replace(spec_named(self.model).at(self.width, self.height), num_layers=self.layers)


def caches(chunk: int) -> dict[str, CacheConfig]:
    """Our caches by name. ``EQUAL`` attends to the same tokens as the reference's full cache."""
    sizes = {"pafu 6": ("pafu", 6.0), "pafu 3": ("pafu", 3.0), EQUAL: ("window", float(WHOLE - chunk))}
    return {
        name: CacheConfig(
            policy=policy, budget_latents=budget, sink_latents=0.0, recent_latents=1.5, position_mode="absolute"
        )
        for name, (policy, budget) in sizes.items()
    }


class Side(Protocol):
    """Rolls chunks out, over one of several caches."""

    def chunk(self, name: str) -> Tensor:
        """The next chunk's latents (1, F, C, h, w)."""


def random_weights(setup: Setup) -> tuple[CausalDiT, RandomText]:
    """The same on both sides."""
    torch.manual_seed(0)
    spec, dtype = setup.spec, getattr(torch, setup.dtype)
    dit, text = CausalDiT(spec).requires_grad_(False), RandomText(spec)
    open_gates(dit)
    return dit.to(setup.device, dtype), text.to(setup.device, dtype)


class Ours:
    """Pafu, as it serves."""

    def __init__(self, setup: Setup) -> None:
        dit, text = random_weights(setup)
        device, dtype = torch.device(setup.device), getattr(torch, setup.dtype)
        if can_pack(dit):
            pack(dit)
        head = SalienceHead(setup.spec).to(device, dtype)
        no_codec = cast(Any, None)
        model = LoadedModel(setup.spec, dit, text, no_codec, device, dtype, "random", head, noise="cpu")
        choices = caches(setup.spec.chunk_latents).items()
        self._streams = {name: VideoStream(model, "a place", SEED, cache) for name, cache in choices}

    def chunk(self, name: str) -> Tensor:
        return self._streams[name].next_latents().past.latents


class Reference:
    """The model of a Self-Forcing checkout, with its own cache and attention."""

    def __init__(self, root: Path, setup: Setup) -> None:
        self._spec = spec = setup.spec
        self._device, self._dtype = torch.device(setup.device), getattr(torch, setup.dtype)
        dit, text = random_weights(setup)
        self._model = reference_model(root, self._dtype, self._device)(
            patch_size=spec.patch,
            text_len=spec.text_len,
            in_dim=spec.latent_channels,
            dim=spec.dim,
            ffn_dim=spec.ffn_dim,
            freq_dim=spec.freq_dim,
            text_dim=spec.text_dim,
            out_dim=spec.latent_channels,
            num_heads=spec.num_heads,
            num_layers=spec.num_layers,
            local_attn_size=WHOLE,
            cross_attn_norm=True,
            eps=spec.eps,
        )
        self._model.to(self._device, self._dtype).load_state_dict(dit.state_dict())
        self._model.eval().requires_grad_(False)
        self._states, self._index = text.encode(""), 0
        self._kept = [self._room(WHOLE * spec.tokens_per_latent) for _ in range(spec.num_layers)]
        self._prompt = [self._room(spec.text_len) for _ in range(spec.num_layers)]

    def _room(self, tokens: int) -> dict[str, Any]:
        shape = (1, tokens, self._spec.num_heads, self._spec.head_dim)
        keys, values = (torch.zeros(shape, device=self._device, dtype=self._dtype) for _ in range(2))
        ends = {name: torch.zeros(1, dtype=torch.long) for name in ("global_end_index", "local_end_index")}
        return {"k": keys, "v": values, "is_init": False, **ends}

    def chunk(self, name: str) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(SEED * SEED_PRIME + self._index)
        latents = denoise(self._velocity, partial(self._noise, generator), self._spec.schedule(self._index))
        self._velocity(latents, CLEAN)
        self._index += 1
        return latents

    def _noise(self, generator: torch.Generator) -> Tensor:
        spec = self._spec
        shape = (1, spec.chunk_latents, spec.latent_channels, spec.latent_height, spec.latent_width)
        return torch.randn(shape, generator=generator).to(self._device)

    def _velocity(self, x_t: Tensor, timestep: float) -> Tensor:
        out: Tensor = self._model(
            x_t.to(self._dtype).transpose(1, 2),
            t=torch.full(x_t.shape[:2], timestep, device=self._device),
            context=self._states[None],
            seq_len=WHOLE * self._spec.tokens_per_latent,
            kv_cache=self._kept,
            crossattn_cache=self._prompt,
            current_start=self._index * self._spec.tokens_per_chunk,
        )
        return out.transpose(1, 2)


def reference_model(root: Path, dtype: torch.dtype, device: torch.device) -> Callable[..., Any]:
    """``CausalWanModel`` of the checkout. Its packages' own imports, which need far more, are left out."""
    for name in ("wan", "wan.modules"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules[name] = package
    attention, base, causal = (_module(f"wan.modules.{name}") for name in ("attention", "model", "causal_model"))
    if device.type == "cpu":  # its own fallback, in the weights' dtype: FlashAttention needs a GPU
        causal.attention = base.flash_attention = partial(attention.attention, dtype=dtype)
    model: Callable[..., Any] = causal.CausalWanModel
    return model


def _module(name: str) -> Any:
    from importlib import import_module

    return import_module(name)


@torch.inference_mode()
def main(side: str, given: str) -> None:
    setup = msgspec.json.decode(given, type=Setup)
    torch.set_num_threads(setup.threads)
    rolls: Side = Ours(setup) if side == "pafu" else Reference(Path(side), setup)
    first = rolls.chunk(EQUAL).flatten()[:SHOWN].float().tolist()
    print(msgspec.json.encode(first).decode(), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        rolls.chunk(line.strip())
        wait(torch.device(setup.device))
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
