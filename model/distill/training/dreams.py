"""Clips sampled from a bidirectional teacher: prompts in, latents out. Distillation needs no data set."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.distill.data.script import Script
from model.distill.training import parallel
from model.distill.training.parallel import encode_context
from model.spec import ModelSpec
from model.transformer.attention import Attention, Bidirectional
from model.transformer.dit import Context
from model.transformer.sampler import FULL_NOISE, add_noise, clean_from_velocity
from model.weights import LoadedModel, WeightsError

if TYPE_CHECKING:
    from model.distill.data.world import Clip

DREAM_SEED = 41
NEGATIVE = ""  # the negative prompt of the guidance


def scripts(spec: ModelSpec, prompts: Path | None, chunks: int, seed: int = DREAM_SEED) -> Callable[[int], Script]:
    """The n-th script of ``chunks`` chunks: prompts from a file (one per line), or the built-in world's tours.

    Raises ValueError if a model without a world of its own gets no prompts.
    """
    if prompts is not None:
        lines = [line.strip() for line in prompts.read_text().splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{prompts} contains no prompts: write one per line")
        return lambda n: _of_prompt(lines[n % len(lines)], spec, chunks)
    if not spec.camera:
        raise ValueError(
            f"model {spec.name!r} has no world of its own: give a file of prompts, one per line (--prompts)"
        )
    return lambda n: Script.of_clip(world_clip(chunks, seed, n), spec)


def world_clip(chunks: int, seed: int, n: int) -> Clip:
    """The n-th clip of the built-in world, alternating between training clips and announced tours, without prompts that
    are reserved for judging."""
    from model.distill.data.clips import random_clip
    from model.distill.data.holdout import reserved
    from model.distill.data.tours import announced_clip
    from model.spec import PAFU_MINI
    from model.words.text import phrase_ids

    make = announced_clip if n % 2 else random_clip
    for attempt in itertools.count():
        clip = make(np.random.default_rng((seed, chunks, n, attempt)), chunks)
        told = torch.stack([phrase_ids(segment.prompt, PAFU_MINI.text_len) for segment in clip.segments])
        if not bool(reserved(told).any()):
            return clip
    raise AssertionError  # unreachable: the loop only ends by returning


def _of_prompt(prompt: str, spec: ModelSpec, chunks: int) -> Script:
    """A script with one prompt; its camera phrase moves the camera, if the model has one."""
    from model.camera import CameraState, advance, camera_from_prompt

    if not spec.camera:
        return Script((prompt,) * chunks)
    control, state = camera_from_prompt(prompt), CameraState()
    state = state.steered(control, spec.view_width) if control else state
    _, offsets, speeds = advance(state, chunks * spec.chunk_latents, spec.temporal_stride)
    return Script((prompt,) * chunks, tuple(offsets), tuple(speeds))


def digest(prompts: Path | None) -> str | None:
    """A digest of a prompts file, for a run's settings; None for the built-in world."""
    return None if prompts is None else hashlib.sha256(prompts.read_bytes()).hexdigest()


class Telling:
    """A script as inputs of passes over the whole clip."""

    def __init__(self, model: LoadedModel, script: Script) -> None:
        self.model, self.script = model, script
        self.positions = script.positions(model.spec)[None].to(model.device)
        control = script.control(model.spec)
        self.control = None if control is None else control[None].to(model.device)

    @property
    def frames(self) -> int:
        """Number of latent frames."""
        return self.script.chunks * self.model.spec.chunk_latents

    def context(self, prompts: tuple[str, ...] | None = None) -> Context:
        """Keys and values of the chunks' prompts (1, chunks, slots, H, D) per layer."""
        told = {prompt: self.model.text.encode(prompt) for prompt in set(prompts or self.script.prompts)}
        states = torch.stack([told[prompt] for prompt in prompts or self.script.prompts])
        return encode_context(self.model.dit, states[None])

    def velocity(self, x_t: Tensor, timestep: float, context: Context, attention: Attention) -> Tensor:
        timesteps = torch.full((1, self.frames), timestep, device=x_t.device)
        out: Tensor = self.model.dit(x_t, timesteps, context, attention, self.control)
        return out


@torch.no_grad()
def dream(teacher: LoadedModel, script: Script, seed: int, steps: int, guidance: float = 1.0) -> Tensor:
    """Latents (frames, C, h, w) float32 of one clip: ``steps`` Euler steps of the teacher's flow, from noise."""
    spec, telling = teacher.spec, Telling(teacher, script)
    told, attention = telling.context(), Bidirectional(telling.positions, spec)
    untold = telling.context((NEGATIVE,) * script.chunks) if guidance != 1 else None
    generator = torch.Generator().manual_seed(seed)
    shape = (1, telling.frames, spec.latent_channels, spec.latent_height, spec.latent_width)
    x = torch.randn(shape, generator=generator).to(teacher.device)
    uniform = torch.linspace(1, 0, steps + 1)
    levels = (spec.shift * uniform / (1 + (spec.shift - 1) * uniform)).tolist()
    for level, following in zip(levels, levels[1:], strict=False):
        velocity = telling.velocity(x, FULL_NOISE * level, told, attention)
        if untold is not None:
            plain = telling.velocity(x, FULL_NOISE * level, untold, attention)
            velocity = plain + guidance * (velocity - plain)
        x0 = clean_from_velocity(x, velocity, FULL_NOISE * level)
        x = x0 + (following / level) * (x - x0)
    return x[0].float()


@torch.no_grad()
def painted(student: LoadedModel, n: int) -> Tensor:
    """Latents of the n-th clip of the built-in world from its autoencoder: the truth instead of a dream."""
    from model.codec.vae import StreamingVAE, from_pictures
    from model.distill.data.world import render_views

    spec = student.spec
    views = render_views(world_clip(spec.trained_latents // spec.chunk_latents, DREAM_SEED, n))
    return (
        cast(StreamingVAE, student.vae)
        .encode(from_pictures(torch.from_numpy(views)).to(student.device, student.dtype))
        .float()
    )


def build(folder: Path, count: int, make: Callable[[int], Tensor], rank: int = 0, processes: int = 1) -> None:
    """Make clips 0 ... count-1 in ``folder``, one file each; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in track(range(0, count, processes), description="dreaming clips", disable=rank > 0):
        round_of_all = range(first, min(first + processes, count))
        there = all(clip_path(folder, n).exists() for n in round_of_all)
        parallel.barrier()  # with sharded weights, all processes must work at the same time
        if there:
            continue
        n = min(first + rank, count - 1)
        latents = make(n)
        if n == first + rank:
            aside = clip_path(folder, n).with_suffix(".part")
            save_file({"latents": latents.cpu().half().contiguous()}, aside)
            aside.replace(clip_path(folder, n))
        parallel.barrier()


def clip_path(folder: Path, n: int) -> Path:
    return folder / f"{n:05d}.safetensors"


def load_clip(folder: Path, n: int) -> Tensor:
    """Load a clip. Raises WeightsError for a damaged file."""
    path = clip_path(folder, n)
    try:
        return load_file(path)["latents"].float()
    except (SafetensorError, KeyError) as error:
        raise WeightsError(f"{path} is damaged ({error}): remove it and run the same command again") from error


def noised(latents: Tensor, level: float, seed: int) -> Tensor:
    """(1, frames, C, h, w) at noise level ``level``."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return add_noise(latents, noise, FULL_NOISE * level)[None]
