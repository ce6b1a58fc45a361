"""Clips as latents on disk: rendered and encoded once, in shards, then read repeatedly by training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.camera import MAX_SPEED, view_offset
from model.codec.vae import StreamingVAE, from_pictures
from model.distill.data.captions import prompts_by_chunk
from model.distill.data.clips import random_clip
from model.distill.data.holdout import reserved
from model.distill.data.world import CHUNK_LATENTS, FOG, Clip, render_views
from model.spec import PAFU_MINI
from model.transformer.positions import grid_positions
from model.words.text import phrase_ids
from model.words.vocabulary import LIGHTS

CHUNKS = PAFU_MINI.trained_latents // CHUNK_LATENTS
SHARD = 1536  # latent frames
TRAIN_SEED, HELD_OUT_SEED = 7, 900_007
NEW_WORDS = 0.5  # share of the chunks after the first that begin with a new prompt


@dataclass
class Batch:
    """B clips of F latent frames, with G = F / chunk prompts."""

    latents: Tensor  # (B, F, C, h, w) float32
    ids: Tensor  # (B, G, slots, symbols) int64
    offsets: Tensor  # (B, F) float32, camera offset of each latent frame's view in pixels
    control: Tensor  # (B, F, 1) camera speed / MAX_SPEED
    lights: Tensor  # (B, G) int64, light and weather
    past: Tensor | None = None  # like latents: what the student sees of the clip, if it is not the truth

    def to(self, device: torch.device) -> Batch:
        return self._mapped(lambda tensor: tensor.to(device))

    def stills(self) -> Batch:
        """The first latent frame of every clip."""
        return self._mapped(lambda tensor: tensor[:, :1])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        always = ("latents", "ids", "offsets", "control", "lights")
        changed = {name: change(getattr(self, name)) for name in always}
        return Batch(**changed, past=None if self.past is None else change(self.past))

    def new_words(self) -> Tensor:
        """(B, G) bool: chunks whose prompt differs from the previous chunk's; False for the first."""
        new = torch.zeros(self.ids.shape[:2], dtype=torch.bool, device=self.ids.device)
        new[:, 1:] = (self.ids[:, 1:] != self.ids[:, :-1]).flatten(2).any(2)
        return new

    def positions(self) -> Tensor:
        """(B, F * tokens, 3)."""
        frames = self.latents.shape[1]
        return torch.cat([grid_positions(PAFU_MINI, 0, frames, row) for row in self.offsets])


def clip_of(seed: int, index: int, chunks: int = CHUNKS) -> Clip:
    return random_clip(np.random.default_rng((seed, chunks, index)), chunks)


def clip_tensors(clip: Clip, vae: StreamingVAE, said: dict[str, Tensor]) -> dict[str, Tensor]:
    """One clip as tensors, latents in half precision, with what is ``said`` of its chunks."""
    with torch.inference_mode():
        latents = vae.encode(from_pictures(torch.from_numpy(render_views(clip)))).contiguous()
    return {
        "latents": latents.half(),
        **said,
        "offsets": torch.tensor([float(view_offset(o, s)) for o, s in zip(clip.offsets, clip.speeds, strict=True)]),
        "control": torch.tensor(clip.speeds, dtype=torch.float32)[:, None] / MAX_SPEED,
    }


def said_tensors(clip: Clip, rng: np.random.Generator) -> dict[str, Tensor]:
    """The possible prompts of a clip's chunks, and their lights."""
    lights = [clip.segment_of(chunk).light for chunk in range(len(clip.offsets) // CHUNK_LATENTS)]
    return told_tensors(clip, prompts_by_chunk(rng, clip.scene, lights, list(clip.offsets)))


def told_tensors(clip: Clip, prompts: Sequence[str]) -> dict[str, Tensor]:
    """``prompts``, one per chunk of the clip, and the chunks' lights with their weather."""
    segments = [clip.segment_of(chunk) for chunk in range(len(prompts))]
    airs = [LIGHTS.index(each.light) + len(LIGHTS) * (each.weather == FOG) for each in segments]
    return {
        "ids": torch.stack([phrase_ids(prompt, PAFU_MINI.text_len) for prompt in prompts]).to(torch.uint8),
        "lights": torch.tensor(airs, dtype=torch.uint8),
    }


def build(folder: Path, vae: StreamingVAE, clips: int, chunks: int = CHUNKS, seed: int = TRAIN_SEED) -> None:
    """Render and encode ``clips`` clips of ``chunks`` chunks into shards in ``folder``; existing shards are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = SHARD // (chunks * CHUNK_LATENTS)  # clips per shard
    for number in track(range(-(-clips // shard)), description=f"rendering {folder.name}"):
        path = folder / f"clips-{number:05d}.safetensors"
        if path.exists():
            continue
        rows = [_row(seed, number * shard + i, chunks, vae) for i in range(shard)]
        aside = path.with_suffix(".part")
        save_file({name: torch.stack([row[name] for row in rows]) for name in rows[0]}, aside)
        aside.replace(path)


def _row(seed: int, index: int, chunks: int, vae: StreamingVAE) -> dict[str, Tensor]:
    clip = clip_of(seed, index, chunks)
    return clip_tensors(clip, vae, said_tensors(clip, np.random.default_rng((seed, chunks, index, 1))))


class Clips:
    """The shards of a folder, without clips that have a reserved prompt. The clips of step n depend only on n and on
    the number of shards at the start."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("clips-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"no clips in {folder}; run `pafu distill mini --stage clips` first")
        shards = [load_file(path) for path in paths]
        whole = {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
        free = ~reserved(whole["ids"]).any(1)
        self._tensors = {name: tensor[free] for name, tensor in whole.items()}

    def __len__(self) -> int:
        return len(self._tensors["latents"])

    def batch(self, step: int, size: int, chunks: int | None = None) -> Batch:
        """``size`` clips, or as many stretches of ``chunks`` chunks. All clips are used once before any is used twice.

        The prompts to use are drawn from the possible ones: the first, one at every change of the light, and some
        others. Each lasts until the next.
        """
        epoch_steps = len(self) // size
        order = np.random.default_rng((TRAIN_SEED, step // epoch_steps)).permutation(len(self))
        picked = torch.from_numpy(order[(step % epoch_steps) * size :][:size].copy())
        rng = np.random.default_rng((TRAIN_SEED, step, size))
        return said(rng, stretches(rng, self.at(picked), chunks) if chunks else self.at(picked))

    def at(self, picked: Tensor) -> Batch:
        rows = {name: tensor[picked] for name, tensor in self._tensors.items()}
        return Batch(
            rows["latents"].float(),
            rows["ids"].long(),
            rows["offsets"].float(),
            rows["control"].float(),
            rows["lights"].long(),
            rows["past"].float() if "past" in rows else None,
        )


def stretches(rng: np.random.Generator, batch: Batch, chunks: int) -> Batch:
    """``chunks`` chunks of each clip, from a random chunk on."""
    size, groups = batch.ids.shape[:2]
    first = torch.from_numpy(rng.integers(0, groups - chunks + 1, size))[:, None]
    group = first + torch.arange(chunks)
    frame = first * CHUNK_LATENTS + torch.arange(chunks * CHUNK_LATENTS)
    row = torch.arange(size)[:, None]
    return Batch(
        batch.latents[row, frame],
        batch.ids[row, group],
        batch.offsets[row, frame],
        batch.control[row, frame],
        batch.lights[row, group],
    )


def said(rng: np.random.Generator, batch: Batch) -> Batch:
    """Extend some prompts over the following chunks, replacing their prompts."""
    size, groups = batch.ids.shape[:2]
    begins = torch.from_numpy(rng.random((size, groups)) < NEW_WORDS)
    begins[:, 0] = True
    begins[:, 1:] |= batch.lights[:, 1:] != batch.lights[:, :-1]
    since = torch.where(begins, torch.arange(groups), 0).cummax(1).values
    return dataclasses.replace(batch, ids=batch.ids[torch.arange(size)[:, None], since])
