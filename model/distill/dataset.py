"""Clips as latents on disk: rendered and encoded once, in shards, then read as often as training likes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.camera import MAX_SPEED, view_offset
from model.distill.world import CHUNK_LATENTS, Clip, random_clip, render_views
from model.positions import grid_positions
from model.spec import PAFU_MINI
from model.text import phrase_ids
from model.vae import StreamingVAE, from_pictures

CHUNKS = PAFU_MINI.trained_latents // CHUNK_LATENTS
SHARD = 1536  # latent frames
TRAIN_SEED, HELD_OUT_SEED = 7, 900_007
RESERVED_SHARE = 16  # one prompt in so many is kept for judging


@dataclass
class Batch:
    """B clips of F latent frames in G = F / chunk prompt groups."""

    latents: Tensor  # (B, F, C, h, w) float32
    ids: Tensor  # (B, G, slots, symbols) int64
    offsets: Tensor  # (B, F) float32, camera offset of each latent frame's view in pixels
    control: Tensor  # (B, F, 1) camera speed / MAX_SPEED

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in (self.latents, self.ids, self.offsets, self.control)))

    def stills(self) -> Batch:
        """The first latent frame of every clip."""
        return Batch(self.latents[:, :1], self.ids[:, :1], self.offsets[:, :1], self.control[:, :1])

    def positions(self) -> Tensor:
        """(B, F * tokens, 3)."""
        frames = self.latents.shape[1]
        return torch.cat([grid_positions(PAFU_MINI, 0, frames, row) for row in self.offsets])


def clip_of(seed: int, index: int, chunks: int = CHUNKS) -> Clip:
    return random_clip(np.random.default_rng((seed, chunks, index)), chunks)


def clip_tensors(clip: Clip, vae: StreamingVAE) -> dict[str, Tensor]:
    """One clip as tensors; latents in half precision."""
    with torch.inference_mode():
        latents = vae.encode(from_pictures(torch.from_numpy(render_views(clip)))).contiguous()
    chunks = len(clip.offsets) // CHUNK_LATENTS
    return {
        "latents": latents.half(),
        "ids": torch.stack([phrase_ids(clip.segment_of(c).prompt, PAFU_MINI.text_len) for c in range(chunks)]).to(
            torch.uint8
        ),
        "offsets": torch.tensor([float(view_offset(o, s)) for o, s in zip(clip.offsets, clip.speeds, strict=True)]),
        "control": torch.tensor(clip.speeds, dtype=torch.float32)[:, None] / MAX_SPEED,
    }


def reserved(ids: Tensor) -> Tensor:
    """Which prompts, symbols (..., slots, symbols), are kept for judging: a checksum decides, so that nothing that says
    the same is ever trained on, in whatever words and from whatever seed. Returns bool (...)."""
    ids = ids.long()
    weights = torch.tensor([pow(31, i + 1, 65_521) for i in range(ids.shape[-2] * ids.shape[-1])])
    return (ids.flatten(-2) * weights).sum(-1) % 65_521 % RESERVED_SHARE == 0


def build(folder: Path, vae: StreamingVAE, clips: int, chunks: int = CHUNKS, seed: int = TRAIN_SEED) -> None:
    """Render and encode ``clips`` clips of ``chunks`` chunks into shards below ``folder``; shards that are there
    already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = SHARD // (chunks * CHUNK_LATENTS)  # clips
    for number in track(range(-(-clips // shard)), description=f"rendering {folder.name}"):
        path = folder / f"clips-{number:05d}.safetensors"
        if path.exists():
            continue
        rows = [clip_tensors(clip_of(seed, number * shard + i, chunks), vae) for i in range(shard)]
        aside = path.with_suffix(".part")
        save_file({name: torch.stack([row[name] for row in rows]) for name in rows[0]}, aside)
        aside.replace(path)


class Clips:
    """The shards of a folder without the clips that have a reserved prompt; which clips step n sees depends on n alone
    and on how many shards there were at the start."""

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

    def batch(self, step: int, size: int) -> Batch:
        """``size`` clips; every clip comes once before any comes twice."""
        epoch_steps = len(self) // size
        order = np.random.default_rng((TRAIN_SEED, step // epoch_steps)).permutation(len(self))
        picked = torch.from_numpy(order[(step % epoch_steps) * size :][:size].copy())
        return self.at(picked)

    def at(self, picked: Tensor) -> Batch:
        rows = {name: tensor[picked] for name, tensor in self._tensors.items()}
        return Batch(rows["latents"].float(), rows["ids"].long(), rows["offsets"].float(), rows["control"].float())
