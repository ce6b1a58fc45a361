"""How much GPU memory a distillation needs, before any is allocated: counted on the meta device, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cache.config import CacheConfig
from model.cost.memory import OverFullCache, cache_bytes, one_pass, peak_of, weight_bytes
from model.distill.stages.long_stage import LongSettings, everything_of
from model.distill.stages.salience_stage import SalienceRecorder, SalienceSettings, head_loss
from model.spec import ModelSpec
from model.transformer import rope
from model.transformer.dit import CausalDiT
from model.transformer.salience import SalienceHead

GIB = 2**30
COPIES_TRAINED = 5  # float32 copies of a trained weight: itself, its gradient, AdamW's two moments, its average


def salience_bytes(
    teacher: ModelSpec, student: ModelSpec, settings: SalienceSettings, dtype: torch.dtype = torch.bfloat16
) -> dict[str, int]:
    """Bytes of ``pafu distill salience`` by purpose; dreams, targets, lessons and steps take turns. Text encoders and
    codecs stay in main memory. Raises MissingExtra."""
    with torch.device("meta"), torch.no_grad():
        dits = [CausalDiT(spec).to(dtype) for spec in (teacher, student)]
        head = SalienceHead(student)
    held = sum(weight_bytes(dit, dtype) for dit in dits) + COPIES_TRAINED * weight_bytes(head, torch.float32)
    turns = {
        "dreaming": _whole_clip(teacher, dits[0], None, settings.guidance != 1),
        "targets": _whole_clip(teacher, dits[0], settings, False),
        "lessons": _lesson(student, dits[1], dtype),
        "a step": _step(student, head, settings, dtype),
    }
    return {"weights": held, **turns, "at most": held + max(turns.values())}


def _whole_clip(spec: ModelSpec, dit: CausalDiT, settings: SalienceSettings | None, guided: bool) -> int:
    """A bidirectional pass over a clip: keys and values of its prompts (twice as many with guidance), and the memory of
    one layer; attention is recorded only for a target."""
    frames, chunks = spec.trained_latents, spec.trained_latents // spec.chunk_latents
    with torch.device("meta"), torch.no_grad():
        context = dit.encode_context(torch.empty(1, chunks, spec.text_len, spec.text_dim))
        one = CausalDiT(replace(spec, num_layers=1)).to(dit.dtype)
        positions = torch.empty(1, frames * spec.tokens_per_latent, 3)
        look = _Fused(positions, spec, settings)
        latents = torch.empty(1, frames, spec.latent_channels, spec.latent_height, spec.latent_width)
        control = torch.empty(1, frames, spec.control_dim) if spec.control_dim else None
        working = peak_of(lambda: one(latents, torch.empty(1, frames), context[:1], look, control))
    return working + (1 + guided) * sum(each.nbytes for pair in context for each in pair)


def long_bytes(spec: ModelSpec, settings: LongSettings) -> dict[str, int]:
    """Bytes of ``pafu distill long`` on a GPU by purpose. The student trains in float32; its former self is in
    bfloat16. Raises MissingExtra."""
    with torch.device("meta"):
        dit = CausalDiT(spec)
    weights = COPIES_TRAINED * weight_bytes(dit, torch.float32) + weight_bytes(dit, torch.bfloat16)
    everything = everything_of(settings, spec)
    caches = [cache_bytes(spec, settings.cache, torch.float32), cache_bytes(spec, everything, torch.bfloat16)]
    held = settings.streams * sum(sum(each.values()) for each in caches)
    one, two = (_gradient(replace(spec, num_layers=layers), settings) for layers in (1, 2))
    graph = one + (spec.num_layers - 1) * (two - one)
    return {"weights": weights, "caches": held, "graph of a chunk": graph, "at most": weights + held + graph}


def _gradient(spec: ModelSpec, settings: LongSettings) -> int:
    """Forward and backward pass of a chunk of all streams over the content of their caches."""
    streams, frames, tokens = settings.streams, spec.chunk_latents, settings.cache.budget_tokens(spec.tokens_per_latent)
    with torch.device("meta"):
        dit = CausalDiT(spec)
        dit.recomputes = True
        held = torch.empty(streams, tokens, spec.num_heads, spec.head_dim)
        latents = torch.empty(streams, frames, spec.latent_channels, spec.latent_height, spec.latent_width)
        control = torch.empty(streams, frames, spec.control_dim) if spec.control_dim else None

        def over(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            seen: Tensor = _Kernel.apply(q, torch.cat((held, k), 1), torch.cat((held, v), 1))  # type: ignore[no-untyped-call]
            return seen

        def work() -> None:
            context = dit.encode_context(torch.empty(streams, 1, spec.text_len, spec.text_dim))
            dit(latents, torch.empty(streams, frames), context, over, control).square().mean().backward()

        gradients = weight_bytes(dit, torch.float32)  # counted with the weights
        return peak_of(work) - gradients


class _Kernel(torch.autograd.Function):
    """Memory of fused attention: it keeps its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


class _Fused:
    """Bidirectional attention as a fused GPU kernel, which holds little more than its output."""

    def __init__(self, positions: Tensor, spec: ModelSpec, settings: SalienceSettings | None) -> None:
        self._rotation = rope.angles(positions, spec.rope_split, spec.rope_theta)
        self._recorder = None if settings is None else SalienceRecorder(positions, spec, settings)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rope.apply(q, *self._rotation), rope.apply(k, *self._rotation)
        if self._recorder is not None:
            self._recorder.record(q, k, v)
        return torch.empty_like(q)


def _lesson(spec: ModelSpec, dit: CausalDiT, dtype: torch.dtype) -> int:
    """The student's stream over a clip, with a cache that keeps everything."""
    full = CacheConfig(
        policy="full",
        budget_latents=spec.trained_latents,
        sink_latents=0,
        recent_latents=0,
        position_mode="relative",
    )
    with torch.device("meta"), torch.no_grad():
        over = OverFullCache(spec, full, dtype, "cuda")
        working = peak_of(partial(one_pass, dit, spec, over, 1))
    cached: int = sum(cache_bytes(spec, full, dtype).values())
    return working + cached


def _step(spec: ModelSpec, head: SalienceHead, settings: SalienceSettings, dtype: torch.dtype) -> int:
    """One clip's loss with its graph."""
    tokens = min(settings.tokens, spec.trained_latents * spec.tokens_per_latent)
    with torch.device("meta"):
        shape = (spec.num_layers, tokens, spec.num_heads, spec.head_dim)

        def step() -> None:
            keys, values = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
            head_loss(head.logits(keys, values), torch.empty(shape[:2]), "regression", 0)["loss"].backward()

        return peak_of(step)
