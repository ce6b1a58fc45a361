"""``pafu distill long``: streaming long tuning with the pruned cache in the loop.

The student's former self, which forgets nothing, rolls out videos several times as long as the training clips. At every
chunk the student, with its pruned cache and the policy and budget with which it will be served, must predict what its
former self predicts from everything. This needs no data, and every cost of pruning (texture, seams) shows in the loss.
With the student's own pictures as the past, pafu-mini's world became emptier with every step (docs/log.md).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from cache.config import RECALLING, CacheConfig
from model.distill.stages.salience_stage import DistillError, keep_settings
from model.distill.training import dreams, parallel
from model.distill.training.rollout import Rollout
from model.distill.training.stage import Losses, Stage, plot_curve, trained_weights
from model.spec import ModelSpec
from model.transformer.salience import HEAD_FILE, save_head
from model.transformer.sampler import FULL_NOISE, add_noise
from model.weights import LoadedModel, load_model, save_model, save_transformer

STAGE = "long"
SETTINGS_FILE = "long.settings.json"
SEED = 6007
LEADERS = ("former", "own")


@dataclass(frozen=True)
class LongSettings:
    """``chunks`` per roll-out, ``streams`` side by side; one training step is one roll-out. leader: whose pictures form
    the past: the "former" self's or the student's "own". remembered: latent frames that the former self keeps, its
    first and its newest ones; None is everything, whose memory grows with every chunk."""

    cache: CacheConfig
    chunks: int = 24
    streams: int = 2
    steps: int = 60
    rate: float = 1e-4
    leader: str = "former"
    remembered: float | None = None

    def __post_init__(self) -> None:
        if self.leader not in LEADERS:
            raise DistillError(f"leader is {self.leader!r}; known: {', '.join(LEADERS)}")
        for name in ("chunks", "streams", "steps"):
            if getattr(self, name) < 1:
                raise DistillError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.cache.policy in RECALLING:
            raise DistillError(
                f"policy {self.cache.policy!r} recalls tokens from host memory, but long tuning learns over what the "
                "cache stores: choose another policy"
            )


def everything_of(settings: LongSettings, spec: ModelSpec) -> CacheConfig:
    """The cache of the former self."""
    if settings.remembered is not None and settings.remembered < settings.chunks * spec.chunk_latents:
        mode = settings.cache.position_mode
        return CacheConfig.filled_in("sink_window", settings.remembered, None, None, spec.chunk_latents, mode)
    return CacheConfig(
        policy="full",
        budget_latents=settings.chunks * spec.chunk_latents,
        sink_latents=0,
        recent_latents=0,
        position_mode=settings.cache.position_mode,
    )


class LongTuning:
    """One run of long tuning."""

    def __init__(
        self,
        student: LoadedModel,
        out: Path,
        settings: LongSettings,
        prompts: Path | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._settings, self._out, self._rank, self._processes = settings, out, rank, processes
        # on a GPU the former self only predicts, so bf16 is enough
        dtype = torch.bfloat16 if student.device.type == "cuda" else student.dtype
        self._former = dataclasses.replace(student, dit=copy.deepcopy(student.dit).to(dtype), dtype=dtype)
        self._student = student
        student.dit.recomputes = student.device.type == "cuda"
        self._script = dreams.scripts(student.spec, prompts, settings.chunks, SEED)
        self._everything = everything_of(settings, student.spec)
        told = {"student": student.digest, "prompts": dreams.digest(prompts)}
        keep_settings(out / SETTINGS_FILE, {**asdict(settings), **told}, writes=rank == 0)

    def run(self) -> LoadedModel:
        """Tune, and write the tuned student with its head into ``out``/student; returns the tuned student."""
        dit = self._student.dit.requires_grad_(True)
        rates: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(dit.parameters(), lr=self._settings.rate, weight_decay=0.0)
        ]
        stage = Stage(
            STAGE,
            self._out,
            nn.ModuleDict({"dit": dit}),
            rates,
            self._loss,
            self._settings.steps,
            ema=0.98,
            warmup=5,
            every=5,
            synchronise=lambda: parallel.mean_gradients(dit.parameters()),
            writes=self._rank == 0,
        )
        stage.run()
        parallel.barrier()
        averaged = trained_weights(self._out, STAGE)
        dit.load_state_dict({name.removeprefix("dit."): value for name, value in averaged.items()})
        dit.requires_grad_(False)
        return self._ship()

    def _loss(self, step: int) -> Losses:
        """The loss of one roll-out. Gradients are accumulated chunk by chunk, so memory does not grow with length."""
        settings, spec = self._settings, self._student.spec
        first = (step * self._processes + self._rank) * settings.streams
        numbers = range(first, first + settings.streams)
        scripts, seeds = [self._script(n) for n in numbers], [SEED + n for n in numbers]
        pruned = Rollout(self._student, scripts, seeds, settings.cache)
        everything = Rollout(self._former, scripts, seeds, self._everything)
        generator = torch.Generator().manual_seed(SEED * 100_003 + first)
        leader = everything if settings.leader == "former" else pruned
        total, late = torch.zeros(()), torch.zeros(())
        for chunk in range(settings.chunks):
            x0 = leader.draw()
            steps = spec.schedule(chunk)
            timestep, sigma = steps[int(torch.randint(len(steps), (), generator=generator))]
            x_t = add_noise(x0, torch.randn(x0.shape, generator=generator).to(x0.device), sigma * FULL_NOISE)
            with torch.no_grad():
                wanted = everything.velocity(x_t, timestep)
            error = (pruned.velocity(x_t, timestep) - wanted).square().mean() * timestep / FULL_NOISE
            (error / settings.chunks).backward()
            total += error.detach().cpu() / settings.chunks
            late += error.detach().cpu() * (2 / settings.chunks if chunk >= settings.chunks / 2 else 0)
            pruned.commit(x0)
            everything.commit(x0)
        return {"loss": total, "second half": late}

    def _ship(self) -> LoadedModel:
        model, folder = self._student, self._out / "student"
        if self._rank == 0:
            (folder / HEAD_FILE).unlink(missing_ok=True)  # a head of an earlier run does not match these weights
            digest = self._saved(folder)
            if model.salience is not None:
                save_head(folder / HEAD_FILE, model.salience, digest, self._settings.steps)
            plot_curve(self._out, STAGE)
        parallel.barrier()
        return model if model.spec.public else load_model(model.spec, folder, model.device, model.dtype)

    def _saved(self, folder: Path) -> str:
        """Write the tuned student; returns what its head names. Of a public checkpoint, that is the transformer alone:
        the text encoder with its tokenizer and the VAE stay where they are."""
        model = self._student
        if model.spec.public:
            return save_transformer(folder, model.dit, torch.float16)
        text, vae = cast(nn.Module, model.text), cast(nn.Module, model.vae)
        steps = {STAGE: self._settings.steps}
        save_model(folder, model.spec, model.dit, text, vae, trained_steps=steps, dtype=torch.float16)
        return load_model(model.spec, folder).student
