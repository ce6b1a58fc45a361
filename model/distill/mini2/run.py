"""A training loop with a time limit instead of a step count: rates follow the clock, and results are saved
regularly."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Losses = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
SHARD_BYTES = 14 * 2**20
LOG_SECONDS = 10.0
WARMUP_STEPS = 30


class Twin:
    """A copy of a module in another dtype for the forward and backward passes; float32 needs none."""

    def __init__(self, master: nn.Module, dtype: torch.dtype) -> None:
        self._master = master
        self.module = master if dtype == torch.float32 else copy.deepcopy(master).to(dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights from the master."""
        if self.module is not self._master:
            torch._foreach_copy_(list(self.module.parameters()), list(self._master.parameters()))

    @torch.no_grad()
    def collect(self) -> None:
        """Pass the gradients to the master."""
        if self.module is not self._master:
            for own, twin in zip(self._master.parameters(), self.module.parameters(), strict=True):
                own.grad = None if twin.grad is None else twin.grad.float()
                twin.grad = None


class Average(Generic[M]):
    """An exponential average of a module's parameters and buffers."""

    def __init__(self, module: M, decay: float) -> None:
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)
        self._pairs = [
            (mine, theirs)
            for mine, theirs in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True)
            if mine.is_floating_point()
        ]
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        decay = min(self._decay, self._steps / (10 + self._steps))  # forget early weights soon
        mine, theirs = [a for a, _ in self._pairs], [b for _, b in self._pairs]
        torch._foreach_lerp_(mine, theirs, 1 - decay)


@dataclass
class TimedRun:
    """Runs steps until ``minutes`` are over. ``step(n, progress)`` computes gradients and returns losses to log;
    ``every_log`` may make sheets or save."""

    name: str
    minutes: float
    folder: Path
    step: Callable[[int, float], Losses]
    optimizers: list[torch.optim.Optimizer]
    parameters: list[nn.Parameter]
    after: Callable[[], None] = lambda: None
    checkpoint: Callable[[], None] = lambda: None
    checkpoint_minutes: float = 2.0
    decay: float = 0.5  # share of the time over which rates fall to zero
    clip: float = 1.0
    steps: int = 0
    _rates: list[list[float]] = field(default_factory=list)

    def run(self) -> None:
        self._rates = [[group["lr"] for group in opt.param_groups] for opt in self.optimizers]
        began = logged = saved = time.monotonic()
        sums: dict[str, list[Tensor]] = {}
        while (progress := (time.monotonic() - began) / (60 * self.minutes)) < 1:
            self._set_rates(progress)
            for name, value in self._one_step(progress).items():
                sums.setdefault(name, []).append(value.detach())
            now = time.monotonic()
            if now - logged > LOG_SECONDS or self.steps in (1, 5, 20):
                self._log(now - began, sums)
                sums, logged = {}, now
            if now - saved > 60 * self.checkpoint_minutes:
                self.checkpoint()
                saved = time.monotonic()
        self._log(time.monotonic() - began, sums)
        self.checkpoint()
        for opt, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate

    def _set_rates(self, progress: float) -> None:
        factor = min(1.0, (self.steps + 1) / WARMUP_STEPS) * min(1.0, (1 - progress) / self.decay)
        for opt, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _one_step(self, progress: float) -> Losses:
        losses = self.step(self.steps, progress)
        self.steps += 1
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        finite = bool(norm.isfinite())
        for opt in self.optimizers:
            if finite:  # skip a bad batch; many of them show in the log
                opt.step()
            opt.zero_grad(set_to_none=True)
        self.after()
        return {**losses, "norm": norm} if finite else {"bad": torch.ones(())}

    def _log(self, seconds: float, sums: dict[str, list[Tensor]]) -> None:
        means = {name: round(float(torch.stack(values).float().mean()), 5) for name, values in sums.items()}
        line = {"stage": self.name, "step": self.steps, "seconds": round(seconds, 1), **means}
        print(json.dumps(line), flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        if means.get("bad") == 1 and self.steps > 20:
            raise FloatingPointError(f"{self.name}: no step since the last line had finite gradients")
        if not math.isfinite(means.get("loss", 0.0)):
            raise FloatingPointError(f"{self.name}: the loss is not finite")


def save_sharded(folder: Path, name: str, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> None:
    """Write ``tensors`` as name-0.safetensors, name-1... of at most SHARD_BYTES, floating-point ones in ``dtype``."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        stored = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        if size + stored.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = stored
        size += stored.nbytes
    for number, shard in enumerate(shards):
        aside = folder / f"{name}-{number}.part"
        save_file(shard, aside)
        aside.replace(folder / f"{name}-{number}.safetensors")


def load_sharded(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors that ``save_sharded`` wrote, in float32, or None."""
    paths = sorted(folder.glob(f"{name}-*.safetensors"))
    tensors = {key: value for path in paths for key, value in load_file(path).items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()} or None
