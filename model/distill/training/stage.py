"""Shared by all training stages: a resumable loop with progress bar, checkpoints, log and loss curve.

Data for step n depends only on (seed, n), and checkpoints include the optimizer, so an interrupted and resumed stage
ends like an uninterrupted one. Checkpoints are safetensors: nothing here unpickles.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from rich import get_console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Losses = dict[str, Tensor]


@dataclass
class Stage:
    """One stage of a recipe.

    ``loss(step)`` returns named losses; the one named "loss" is minimized. ``sample(step)`` writes pictures.
    """

    name: str
    folder: Path
    modules: nn.ModuleDict
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[int], Losses]
    steps: int
    sample: Callable[[int], None] = lambda step: None
    warmup: int = 30
    decay: float = 0.3  # share of the steps over which the rate falls to zero
    clip: float = 1.0
    ema: float = 0.0
    minutes: float | None = None
    every: int = 200
    describe: Callable[[dict[str, float]], str] = lambda losses: f"loss {losses['loss']:.4f}"  # in the progress bar
    synchronise: Callable[[], None] = lambda: None  # between backward and step: averages gradients over processes
    writes: bool = True  # checkpoints and log; only the first of several processes
    averaged: dict[str, Tensor] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint."""
        return self.folder / f"{self.name}.checkpoint.safetensors"

    def run(self) -> None:
        """Train up to ``steps``, resuming from the last checkpoint if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rates = [[g["lr"] for g in opt.param_groups] for opt in self.optimizers]
        start = self._resume()
        began = time.monotonic()
        with Progress(
            TextColumn(f"[bold]{self.name}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[state]}"),
            TimeRemainingColumn(),
            refresh_per_second=1,
            disable=not (self.writes and get_console().is_terminal),
        ) as bar:
            task = bar.add_task(self.name, total=self.steps, completed=start, state="-")
            for step in range(start, self.steps):
                losses = self._step(step, rates)
                bar.update(task, completed=step + 1, state=self.describe(losses))
                if not self.writes:
                    continue
                self._log(step, losses, time.monotonic() - began)
                if (step + 1) % self.every == 0 or step + 1 == self.steps:
                    self.save(step + 1)
                    self.sample(step + 1)

    def _step(self, step: int, rates: list[list[float]]) -> dict[str, float]:
        factor = learning_rate_factor(step, self.steps, self.warmup, self.decay)
        for opt, base in zip(self.optimizers, rates, strict=True):
            for group, rate in zip(opt.param_groups, base, strict=True):
                group["lr"] = rate * factor
            opt.zero_grad(set_to_none=True)
        losses = self.loss(step)
        if losses["loss"].requires_grad:  # a loss over many chunks has already run its backward passes
            losses["loss"].backward()
        self.synchronise()
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), self.clip)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"{self.name}: the gradient at step {step} is not finite; lower the learning rate")
        for opt in self.optimizers:
            opt.step()
        self._average(step)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _average(self, step: int) -> None:
        if not self.ema:
            return
        decay = min(self.ema, (1 + step) / (10 + step))  # forget early weights soon
        with torch.no_grad():
            for name, value in self.modules.state_dict().items():
                if name in self.averaged and value.is_floating_point():
                    self.averaged[name].lerp_(value, 1 - decay)
                else:
                    self.averaged[name] = value.detach().clone()

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights if there is an average, else the current ones."""
        return self.averaged if self.ema else self.modules.state_dict()

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step``."""
        tensors = {f"weights/{k}": v for k, v in self.modules.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.averaged.items()}
        for number, opt in enumerate(self.optimizers):
            for index, state in opt.state_dict()["state"].items():
                tensors |= {f"optimizer/{number}/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
        aside = self.checkpoint.with_suffix(".part")
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, aside, {"step": str(step)})
        aside.replace(self.checkpoint)

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        tensors = load_file(self.checkpoint)
        self.modules.load_state_dict(_under(tensors, "weights/"))
        present = self.modules.state_dict()
        self.averaged = {k: v.to(present[k].device) for k, v in _under(tensors, "average/").items()}
        for number, opt in enumerate(self.optimizers):
            content = opt.state_dict()
            for key, value in _under(tensors, f"optimizer/{number}/").items():
                index, name = key.split("/")
                content["state"].setdefault(int(index), {})[name] = value
            opt.load_state_dict(content)
        return saved_step(self.checkpoint)

    def _log(self, step: int, losses: dict[str, float], seconds: float) -> None:
        with (self.folder / f"{self.name}.log.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, "seconds": round(seconds, 1), **losses}) + "\n")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def part_of(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of one of a stage's modules."""
    return _under(weights, f"{part}.")


def saved_step(checkpoint: Path) -> int:
    """The step of the last checkpoint, 0 without one."""
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def trained_weights(folder: Path, stage: str) -> dict[str, Tensor]:
    """Weights of a stage's checkpoint, averaged ones if it has an average. Raises FileNotFoundError, which names the
    command to run."""
    path = folder / f"{stage}.checkpoint.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `pafu distill mini --stage {stage} --out {folder}` first")
    tensors = load_file(path)
    return _under(tensors, "average/") or _under(tensors, "weights/")


def learning_rate_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """Warm up linearly, hold, fall linearly to a hundredth over the last ``decay`` share of the steps."""
    left = (steps - step) / max(1.0, decay * steps)
    return min(1.0, (step + 1) / max(1, warmup), max(0.01, left))


def plot_curve(folder: Path, stage: str) -> Path:
    """Draw the stage's losses over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = [json.loads(line) for line in (folder / f"{stage}.log.jsonl").read_text().splitlines()]
    rows = list({line["step"]: line for line in lines}.values())  # a resumed run repeated some steps
    figure, axes = plt.subplots(figsize=(8, 4))
    for name in [k for k in rows[-1] if k not in ("step", "seconds")]:
        steps = [r["step"] for r in rows if name in r]
        values = [r[name] for r in rows if name in r]
        if "." in name:  # one of many parts, such as layers: a thin line without a name
            axes.plot(steps, _smooth(values), alpha=0.4, linewidth=0.7)
            continue
        axes.plot(steps, values, alpha=0.25)
        axes.plot(steps, _smooth(values), label=name, color=axes.lines[-1].get_color())
    lowest = min(min(map(float, cast(Iterable[float], line.get_ydata()))) for line in axes.lines)
    parts = any("." in name for name in rows[-1])
    axes.set(xlabel="step", yscale="log" if lowest > 0 else "linear", title=stage)
    axes.legend(title="thin: one line per layer" if parts else None)
    figure.tight_layout()
    path = folder / f"{stage}.curve.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _smooth(values: list[float], weight: float = 0.95) -> list[float]:
    out, mean = [], values[0]
    for value in values:
        mean = weight * mean + (1 - weight) * value
        out.append(mean)
    return out
