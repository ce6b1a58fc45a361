"""Stages ``teacher`` and ``student``: flow matching on latents of the training world.

The teacher sees a whole clip at once, with the same noise level everywhere. The student starts from the teacher's
weights, sees only the past (teacher forcing, often with holes), and trains mainly at the timesteps of its few-step
sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from cache.config import CacheConfig
from model.codec.vae import StreamingVAE
from model.distill.data.dataset import Batch, Clips
from model.distill.evaluation.judge import judge_prompts
from model.distill.evaluation.sheets import save_sheet
from model.distill.training.losses import frame_errors, shifted
from model.distill.training.muon import optimizers
from model.distill.training.stage import Losses, Stage, part_of, trained_weights
from model.distill.training.teacher_forcing import TeacherForced, forgotten_in_sight, random_past
from model.spec import PAFU_MINI
from model.stream.video_stream import VideoStream
from model.transformer.attention import Bidirectional
from model.transformer.dit import CausalDiT, Context, init_for_learning
from model.transformer.sampler import FULL_NOISE, add_noise
from model.weights import LoadedModel, assemble
from model.words.text import TextEncoder

SPEC = PAFU_MINI
SEED = 2002
CONTEXT_NOISE = 0.12  # noise on the student's past, which in use is its own inexact output
HOLES = 0.35  # share of the steps with a pruned past
FORGET = 0.5  # share of the new prompts at which the view is forgotten
LEAST_LEVEL = 0.3  # the sampler never uses less noise
SAMPLER_STEPS = 0.8  # share of the chunks at one of the sampler's own timesteps
RATE = 4e-3  # for vectors; matrices train at three times this rate
GENTLE = 0.4  # the student's factor on the rate: it continues from the teacher, with few clips per step
STEADY_RATE = 0.1 * RATE  # it has learned the rest already
SAMPLES = 6
SAMPLE_CACHE = CacheConfig(policy="full", budget_latents=9, sink_latents=0, recent_latents=0, position_mode="relative")


@dataclass(frozen=True)
class Lesson:
    """The data and loss of one training step: ``size`` clips of ``source``."""

    source: str  # "beginnings" (one chunk each) or "clips"
    size: int
    loss: Callable[[nn.ModuleDict, Batch, torch.Generator], Losses]
    chunks: int | None = None  # per clip, None for all


def networks() -> nn.ModuleDict:
    torch.manual_seed(SEED)
    dit = CausalDiT(SPEC)
    init_for_learning(dit)
    return nn.ModuleDict({"dit": dit, "text": TextEncoder(SPEC)})


def encode_prompts(modules: nn.ModuleDict, ids: Tensor) -> Context:
    """Token ids (B, G, slots) to cross-attention keys and values (B, G, slots, H, D) per layer."""
    states = modules["text"](ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
    return cast(CausalDiT, modules["dit"]).encode_context(states)


def noise_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Noise drawn on the CPU, so that a seed gives the same noise on every device."""
    return torch.randn(latents.shape, generator=generator).to(latents.device)


def still_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """Error of the first latent frame alone, from pure noise. Only the prompt can help, so it is learned several times
    sooner than at noise levels that let the picture through."""
    still = batch.stills()
    error = seen_together(modules, still, torch.full((len(still.latents), 1), FULL_NOISE), generator)
    return {"loss": error.mean(), "still": error.mean()}


def clip_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """Velocity error of whole clips: all frames have the same noise level and see each other."""
    level = shifted(torch.rand(len(batch.latents), 1, generator=generator), SPEC.shift)
    timesteps = (FULL_NOISE * level).expand(batch.latents.shape[:2])
    return {"loss": seen_together(modules, batch, timesteps, generator).mean()}


def beginning_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """As ``clip_loss`` for first chunks, at the few-step sampler's timesteps."""
    timesteps = chunk_timesteps(len(batch.latents), 1, generator).expand(batch.latents.shape[:2])
    error = seen_together(modules, batch, timesteps, generator)
    top = timesteps == FULL_NOISE
    return {"loss": error.mean()} | ({"first": error[top].mean()} if top.any() else {})


def seen_together(modules: nn.ModuleDict, batch: Batch, timesteps: Tensor, generator: torch.Generator) -> Tensor:
    """Errors (B, F) at ``timesteps`` (B, F) when all frames of a clip see each other."""
    timesteps, noise = timesteps.to(batch.latents.device), noise_like(batch.latents, generator)
    velocity = modules["dit"](
        add_noise(batch.latents, noise, timesteps),
        timesteps,
        encode_prompts(modules, batch.ids),
        Bidirectional(batch.positions(), SPEC),
        batch.control,
    )
    return frame_errors(velocity, noise - batch.latents, timesteps)


def chunk_timesteps(size: int, chunks: int, generator: torch.Generator) -> Tensor:
    """One timestep per chunk (size, chunks): mostly the sampler's own, otherwise spread over its range."""
    own = torch.tensor(SPEC.timesteps)[torch.randint(0, len(SPEC.timesteps), (size, chunks), generator=generator)]
    level = shifted(torch.rand(size, chunks, generator=generator), SPEC.shift)
    spread = FULL_NOISE * level.clamp(min=LEAST_LEVEL)
    return torch.where(torch.rand(size, chunks, generator=generator) < SAMPLER_STEPS, own, spread)


def student_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """Velocity error of every chunk, given the clean (slightly noised, often pruned) previous chunks."""
    size, frames = batch.latents.shape[:2]
    timesteps = chunk_timesteps(size, batch.ids.shape[1], generator).repeat_interleave(SPEC.chunk_latents, 1)
    timesteps, noise = timesteps.to(batch.latents.device), noise_like(batch.latents, generator)
    noisy = add_noise(batch.latents, noise, timesteps)
    blur = CONTEXT_NOISE * torch.rand(size, 1, 1, 1, 1, generator=generator).to(noise.device)
    clean = (batch.latents if batch.past is None else batch.past) + blur * noise_like(noise, generator)
    positions, forget = batch.positions(), FORGET if batch.past is None else 0.0
    new = batch.new_words() & (torch.rand(batch.ids.shape[:2], generator=generator) < forget).to(noise.device)
    past = random_past(generator, forgotten_in_sight(positions, new, SPEC).cpu(), SPEC, HOLES)
    both = encode_prompts(modules, batch.ids)
    velocity = modules["dit"](
        torch.cat([clean, noisy], 1),
        torch.cat([torch.zeros_like(timesteps), timesteps], 1),
        [(torch.cat([k, k], 1), torch.cat([v, v], 1)) for k, v in both],
        TeacherForced(positions, SPEC, past),
        torch.cat([batch.control] * 2, 1),
    )[:, frames:]
    error = frame_errors(velocity, noise - batch.latents, timesteps)
    later = timesteps == FULL_NOISE
    later[:, : SPEC.chunk_latents] = False
    return {"loss": error.mean()} | ({"later": error[later].mean()} if later.any() else {})


WORDS = (Lesson("beginnings", 64, still_loss),)
TEACHER = (Lesson("beginnings", 64, still_loss), Lesson("beginnings", 24, clip_loss), Lesson("clips", 3, clip_loss))
STUDENT = (
    Lesson("beginnings", 24, beginning_loss),
    Lesson("clips", 2, student_loss),
    Lesson("clips", 8, student_loss, chunks=2),
    Lesson("clips", 2, student_loss),
)
STEADY = (
    Lesson("pasts", 2, student_loss),
    Lesson("beginnings", 24, beginning_loss),
    Lesson("pasts", 2, student_loss),
    Lesson("clips", 2, student_loss),
)


def flow_stage(
    name: str,
    folder: Path,
    steps: int,
    lessons: tuple[Lesson, ...],
    start: dict[str, Tensor] | None,
    rate: float,
    device: torch.device,
) -> Stage:
    """Cycle through the lessons, from the weights ``start`` (None: fresh ones)."""
    sources = {source: Clips(folder / source) for source in {lesson.source for lesson in lessons}}
    modules = networks()
    if start:
        modules.load_state_dict(start)
    modules.to(device)

    def step_loss(step: int) -> Losses:
        lesson = lessons[step % len(lessons)]
        batch = sources[lesson.source].batch(step, lesson.size, lesson.chunks).to(device)
        return lesson.loss(modules, batch, torch.Generator().manual_seed(SEED * 100_003 + step))

    rates = optimizers(modules, matrix_rate=3 * rate, other_rate=rate)
    stage = Stage(name, folder, modules, rates, step_loss, steps, ema=0.995, warmup=10, every=100)
    stage.sample = lambda step: save_samples(stage.weights(), folder, f"{name}.{step:06d}.png")
    return stage


def words_stage(folder: Path, steps: int, device: torch.device) -> Stage:
    return flow_stage("words", folder, steps, WORDS, None, RATE, device)


def teacher_stage(folder: Path, steps: int, device: torch.device) -> Stage:
    return flow_stage("teacher", folder, steps, TEACHER, trained_weights(folder, "words"), RATE, device)


def student_stage(folder: Path, steps: int, device: torch.device) -> Stage:
    return flow_stage("student", folder, steps, STUDENT, trained_weights(folder, "teacher"), GENTLE * RATE, device)


def steady_stage(model: LoadedModel, folder: Path, steps: int, device: torch.device) -> Stage:
    """Train the student ``model`` on, with pasts that are not the truth (``model.distill.stages.pasts``)."""
    start = {f"{name}.{key}": value.float() for name in ("dit", "text") for key, value in _state(model, name).items()}
    return flow_stage("steady", folder, steps, STEADY, start, STEADY_RATE, device)


def _state(model: LoadedModel, part: str) -> dict[str, Tensor]:
    return cast(nn.Module, getattr(model, part)).state_dict()


def as_model(weights: dict[str, Tensor], folder: Path) -> LoadedModel:
    """A flow stage's weights with the trained decoder, on the CPU, ready to stream."""
    parts: dict[str, nn.Module] = {"dit": CausalDiT(SPEC), "text": TextEncoder(SPEC), "vae": StreamingVAE(SPEC)}
    for name, part in parts.items():
        part.load_state_dict(part_of(trained_weights(folder, "vae") if name == "vae" else weights, name))
    return assemble(SPEC, parts, "cpu", torch.float32, "in training")


def save_samples(weights: dict[str, Tensor], folder: Path, name: str) -> None:
    """A sheet of pictures for some reserved prompts: one row each, from the first three chunks."""
    model, rows = as_model(weights, folder), []
    for index, claims in enumerate(judge_prompts(SAMPLES)):
        stream = VideoStream(model, claims.prompt, index, SAMPLE_CACHE)
        rows.append(np.concatenate([stream.next_chunk().pictures[::6] for _ in range(3)]))
    save_sheet(rows, folder / name)
