"""Runs transformer passes over a chunk and a cache, either eagerly or by replaying a CUDA graph.

A graph is captured when a pass runs for the second time with a full cache: from then on shapes and addresses stay the
same. It uses only the workspace and the buffers in this module, nothing of a single session, so all sessions of one
size share it. If capturing fails, passes run eagerly; this is logged once, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.group import ALONE, Group
from cache.kv_cache import KVCache
from cache.policy import Evidence
from cache.storage import Geometry, Workspace
from model.spec import ModelSpec
from model.transformer import rope
from model.transformer.asking import Heads
from model.transformer.attention import Angles, Cached, Rewriting, Rotate, Watch, prompt_keys
from model.transformer.dit import CausalDiT, Context

log = logging.getLogger("pafu.model")


@dataclass(frozen=True)
class Given:
    """The inputs of a chunk's passes, except latents and timestep."""

    context: Context
    control: Tensor | None
    angles: Angles

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        known = [] if self.control is None else [self.control]
        return [*known, *self.angles.tensors, *(each for pair in self.context for each in pair)]

    def clone(self) -> Given:
        """A copy with its own memory."""
        copies = [(keys.clone(), values.clone()) for keys, values in self.context]
        whole, place = self.angles.whole, self.angles.place
        angles = Angles((whole[0].clone(), whole[1].clone()), (place[0].clone(), place[1].clone()))
        return Given(copies, None if self.control is None else self.control.clone(), angles)


@dataclass(frozen=True)
class Result:
    """Velocity (1, F, C, h, w), or after the last pass the evidence for the policy."""

    velocity: Tensor | None
    evidence: Evidence | None


class Captured:
    """A captured pass: its inputs, and its outputs, which the next replay overwrites."""

    def __init__(self, given: Given, latents: Tensor, timesteps: Tensor) -> None:
        self.given, self.latents, self.timesteps = given, latents.clone(), timesteps.clone()
        self.graph = torch.cuda.CUDAGraph()
        self.result: Result | None = None

    def replay(self, latents: Tensor, timesteps: Tensor) -> Result:
        """Run the captured graph on the present content of its inputs."""
        self.latents.copy_(latents)
        self.timesteps.copy_(timesteps)
        self.graph.replay()
        assert self.result is not None
        return self.result


def geometry_of(spec: ModelSpec, dtype: torch.dtype, device: torch.device | str, group: Group = ALONE) -> Geometry:
    """That of a cache for this model, or of one process's part of it."""
    heads = spec.num_heads // group.size
    return Geometry(spec.num_layers, heads, spec.head_dim, spec.tokens_per_chunk, dtype, device)


class Passes:
    """Runs the passes of one model, whose sessions make one chunk at a time."""

    def __init__(self, dit: CausalDiT, heads: Heads, spec: ModelSpec, device: torch.device) -> None:
        self._dit, self._heads, self._spec, self.group = dit, heads, spec, dit.group
        self._rotate: Rotate = rope.apply
        if not any(parameter.requires_grad for parameter in dit.parameters()):
            dit.fuse()
        self._workspace: Workspace | None = None
        self._seen: set[tuple[object, ...]] = set()
        self._captured: dict[tuple[object, ...], Captured] = {}
        self._buffers: Given | None = None
        self._loaded: Given | None = None  # what the buffers hold
        self._pool: Any = None  # the graphs share one memory pool, since they never run at the same time
        self.capturing = device.type == "cuda" and self.group.size == 1  # nobody has tried graphs with exchanges
        self.replays = self.refused = 0
        self.why_refused: str | None = None
        self.before_each: Callable[[], None] = lambda: None

    def compile(self) -> None:
        """Compile the operations between the large products into fused kernels."""
        self._dit.compile_blocks()
        self._rotate = torch.compile(rope.apply_pairs, dynamic=False)

    def workspace(self, dtype: torch.dtype, device: torch.device) -> Workspace:
        """The workspace that all sessions share; caches enlarge it as needed."""
        if self._workspace is None:
            geometry = geometry_of(self._spec, dtype, device, self.group)
            self._workspace = Workspace(geometry, self._spec.tokens_per_chunk)
        return self._workspace

    def run(self, cache: KVCache, latents: Tensor, timestep: float, given: Given, last: bool) -> Result:
        """One pass over latents (1, F, C, h, w) at ``timestep``; the ``last`` pass of a chunk writes the keys to
        store."""
        self.before_each()
        timesteps = torch.full(latents.shape[:2], timestep, device=latents.device)
        if self.capturing and cache.full and cache.workspace is self._workspace:
            key = (cache.workspace.slots, cache.layout, last and cache.needs, last)
            if key in self._captured or (key in self._seen and self._capture(key, cache, latents, timesteps, given)):
                self._load(given)
                self.replays += 1
                if last:
                    cache.stored_elsewhere()
                return self._captured[key].replay(latents, timesteps)
            self._seen.add(key)
        return self._plainly(cache, latents, timesteps, given, last)

    def rewrite(
        self, cache: KVCache, latents: Tensor, positions: Sequence[Tensor], context: Context, control: Tensor | None
    ) -> None:
        """Rewrite earlier chunks, latents (1, chunks * F, C, h, w), in one clean, block-causal pass, and commit them in
        order. ``positions`` are (chunk, 3) per chunk; ``cache`` has already forgotten their tokens."""
        told = prompt_keys(context)
        attention = Rewriting(cache, positions, self._spec, self._heads, told, self._rotate, self.group)
        timesteps = torch.zeros(latents.shape[:2], device=latents.device)
        with torch.compiler.set_stance("force_eager"):  # a rare shape, not worth compiling
            self._dit.write(latents, timesteps, context, attention, control)

    def _plainly(self, cache: KVCache, latents: Tensor, timesteps: Tensor, given: Given, last: bool) -> Result:
        attention = Cached(cache, given.angles, self._rotate, self.group)
        if last:
            attention.watch = Watch(
                cache.needs, self._heads, prompt_keys(given.context), group=self.group, spec=self._spec
            )
        if attention.watch is None:
            return Result(self._dit(latents, timesteps, given.context, attention, given.control), None)
        self._dit.write(latents, timesteps, given.context, attention, given.control)
        return Result(None, attention.watch.evidence())

    def _load(self, given: Given) -> None:
        if given is not self._loaded and self._buffers is not None:
            for buffer, value in zip(self._buffers.tensors, given.tensors, strict=True):
                buffer.copy_(value)
            self._loaded = given

    def _capture(
        self, key: tuple[object, ...], cache: KVCache, latents: Tensor, timesteps: Tensor, given: Given
    ) -> bool:
        last = bool(key[-1])
        try:
            if self._buffers is None:
                self._buffers, self._loaded = given.clone(), given
                self._pool = torch.cuda.graph_pool_handle()
            captured = Captured(self._buffers, latents, timesteps)
            torch.cuda.synchronize()
            # Another thread may be decoding; capture only the calls of this thread.
            with torch.cuda.graph(captured.graph, pool=self._pool, capture_error_mode="thread_local"):
                captured.result = self._plainly(cache, captured.latents, captured.timesteps, self._buffers, last)
        except RuntimeError as error:
            self.capturing, self.why_refused = False, str(error).splitlines()[0]
            self.refused += 1
            log.warning("cannot capture CUDA graphs, passes run without them: %s", self.why_refused)
            return False
        stale = [other for other in self._captured if other[0] != key[0]]  # the workspace has moved since
        for other in stale:
            del self._captured[other]
        self._captured[key] = captured
        return True
