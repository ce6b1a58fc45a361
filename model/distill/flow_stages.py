"""Stages ``teacher`` and ``student``: flow matching on latents of the training world.

The teacher sees a whole clip at once and noises all of it alike. The student starts from the teacher's weights, sees
only the past (teacher forcing, often with holes in it) and learns mainly at the timesteps that its few-
step sampler uses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from model.attention import Bidirectional
from model.distill.dataset import Batch, Clips
from model.distill.muon import optimizers
from model.distill.teacher_forcing import TeacherForced, random_past
from model.distill.training import Losses, Stage, trained_weights
from model.dit import CausalDiT, Context, init_for_learning
from model.sampler import FULL_NOISE, add_noise
from model.spec import PAFU_MINI
from model.text import TextEncoder

SPEC = PAFU_MINI
SEED = 2002
BATCH = 4
CONTEXT_NOISE = 0.12  # the student's past is its own work and never exact
HOLES = 0.35  # share of the steps in which the past is pruned
LEAST_LEVEL = 0.3  # the sampler never asks for less noise
HEAD_CHUNKS = 2  # two of three steps see only so much of their clips, but four times as many clips
FIRST_WEIGHT = 3.0  # of a clip's first chunk: inventing what the prompt names is harder than remembering it
SAMPLER_STEPS = 0.6  # share of the chunks that are noised to one of the sampler's own timesteps


def networks() -> nn.ModuleDict:
    torch.manual_seed(SEED)
    dit = CausalDiT(SPEC)
    init_for_learning(dit)
    return nn.ModuleDict({"dit": dit, "text": TextEncoder(SPEC)})


def encode_prompts(modules: nn.ModuleDict, ids: Tensor) -> Context:
    """Token ids (B, G, slots) to cross-attention keys and values (B, G, slots, H, D) per layer."""
    states = modules["text"](ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
    return modules["dit"].encode_context(states)


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels in (0, 1) pushed towards noise, as the sampler's schedule is."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def frame_errors(velocity: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
    """Squared velocity error per latent frame (B, F) times the noise level s. The error of the clean latents is s times
    that of the velocity: unweighted, the frames with little noise would drown all others."""
    return (velocity - target).square().mean((2, 3, 4)) * timesteps / FULL_NOISE


def teacher_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """Velocity error with every frame of a clip at one noise level."""
    size, frames = batch.latents.shape[:2]
    level = shifted(torch.rand(size, 1, generator=generator), SPEC.shift).clamp(min=LEAST_LEVEL)
    timesteps = (FULL_NOISE * level).expand(size, frames)
    noise = torch.randn(batch.latents.shape, generator=generator)
    velocity = modules["dit"](
        add_noise(batch.latents, noise, timesteps),
        timesteps,
        encode_prompts(modules, batch.ids),
        Bidirectional(batch.positions(), SPEC),
        batch.control,
    )
    return {"loss": frame_errors(velocity, noise - batch.latents, timesteps).mean()}


def chunk_timesteps(size: int, chunks: int, generator: torch.Generator) -> Tensor:
    """A timestep per chunk (size, chunks): mostly the sampler's own ones, else spread over its range."""
    own = torch.tensor(SPEC.timesteps)[torch.randint(0, len(SPEC.timesteps), (size, chunks), generator=generator)]
    level = shifted(torch.rand(size, chunks, generator=generator), SPEC.shift)
    spread = FULL_NOISE * level.clamp(min=LEAST_LEVEL)
    return torch.where(torch.rand(size, chunks, generator=generator) < SAMPLER_STEPS, own, spread)


def student_loss(modules: nn.ModuleDict, batch: Batch, generator: torch.Generator) -> Losses:
    """Velocity error of every chunk given the clean (a little noised, often pruned) chunks before it."""
    size, frames = batch.latents.shape[:2]
    timesteps = chunk_timesteps(size, batch.ids.shape[1], generator).repeat_interleave(SPEC.chunk_latents, 1)
    noise = torch.randn(batch.latents.shape, generator=generator)
    noisy = add_noise(batch.latents, noise, timesteps)
    blur = CONTEXT_NOISE * torch.rand(size, 1, 1, 1, 1, generator=generator)
    clean = batch.latents + blur * torch.randn(noise.shape, generator=generator)
    past = random_past(generator, size, frames, SPEC, HOLES)
    both = encode_prompts(modules, batch.ids)
    velocity = modules["dit"](
        torch.cat([clean, noisy], 1),
        torch.cat([torch.zeros_like(timesteps), timesteps], 1),
        [(torch.cat([k, k], 1), torch.cat([v, v], 1)) for k, v in both],
        TeacherForced(batch.positions(), SPEC, past),
        torch.cat([batch.control] * 2, 1),
    )[:, frames:]
    error = frame_errors(velocity, noise - batch.latents, timesteps)
    top = timesteps == FULL_NOISE
    first = torch.zeros_like(top)
    first[:, : SPEC.chunk_latents] = True
    weight = 1 + (FIRST_WEIGHT - 1) * first
    losses = {"loss": (error * weight).sum() / weight.sum()}
    for name, rows in {"first": top & first, "later": top & ~first}.items():
        if rows.any():
            losses[name] = error[rows].mean()
    return losses


def flow_stage(
    name: str, folder: Path, clips: Path, steps: int, loss: Callable[..., Losses], modules: nn.ModuleDict
) -> Stage:
    source = Clips(clips)

    def step_loss(step: int) -> Losses:
        generator = torch.Generator().manual_seed(SEED * 100_003 + step)
        if loss is student_loss and step % 3:  # four times the beginnings for the same time
            return loss(modules, source.batch(step, 4 * BATCH).head(HEAD_CHUNKS), generator)
        return loss(modules, source.batch(step, BATCH), generator)

    rates = optimizers(modules, matrix_rate=1.2e-2, other_rate=4e-3)
    return Stage(name, folder, modules, rates, step_loss, steps, ema=0.995, warmup=10, every=50)


def teacher_stage(folder: Path, clips: Path, steps: int) -> Stage:
    return flow_stage("teacher", folder, clips, steps, teacher_loss, networks())


def student_stage(folder: Path, clips: Path, steps: int) -> Stage:
    modules = networks()
    modules.load_state_dict(trained_weights(folder, "teacher"))
    return flow_stage("student", folder, clips, steps, student_loss, modules)
