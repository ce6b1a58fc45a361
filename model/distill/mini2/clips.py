"""Clips as latents on the device, and training batches from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.codec.autoencoder import ViewAutoencoder
from model.distill.mini2.pool import ClipPool
from model.distill.mini2.scale import CHUNKS, Scale
from model.spec import ModelSpec
from model.transformer.positions import world_positions
from model.words.text2 import SYMBOLS_PER_SLOT

NEW_WORDS = 0.5  # share of the chunks after the first that begin with a new prompt
POSED = 0.5  # share of the clips with world positions
ENCODED = 48  # views encoded at once


@dataclass
class Batch:
    """B clips of F latent frames, with G = F / chunk prompts."""

    latents: Tensor  # (B, F, C, h, w) float32
    ids: Tensor  # (B, G, slots, symbols) int64
    offsets: Tensor  # (B, F, 2) float32 pixels
    control: Tensor  # (B, F, 4): speed right and down, whether posed, whether the camera jumped
    posed: Tensor  # (B,) bool

    def positions(self, spec: ModelSpec) -> Tensor:
        """(B, F * tokens, 3): world positions of posed clips, screen positions of the others."""
        return world_positions(spec, self.offsets * self.posed[:, None, None])

    def new_words(self) -> Tensor:
        """(B, G) bool: chunks whose prompt differs from the previous chunk's; False for the first."""
        new = torch.zeros(self.ids.shape[:2], dtype=torch.bool, device=self.ids.device)
        new[:, 1:] = (self.ids[:, 1:] != self.ids[:, :-1]).flatten(2).any(2)
        return new


class LatentClips:
    """Grows with the pool up to ``scale.clips`` clips; then the newest replace the oldest."""

    def __init__(self, scale: Scale) -> None:
        spec, n, frames = scale.spec, scale.clips, scale.spec.trained_latents
        self._scale, self._count = scale, 0
        device = scale.device
        shape = (n, frames, spec.latent_channels, spec.latent_height, spec.latent_width)
        self._latents = torch.empty(shape, dtype=torch.float16, device=device)
        self._ids = torch.zeros(n, CHUNKS, spec.text_len, SYMBOLS_PER_SLOT, dtype=torch.uint8, device=device)
        self._must = torch.zeros(n, CHUNKS, dtype=torch.bool, device=device)
        self._offsets = torch.zeros(n, frames, 2, device=device)
        self._moves = torch.zeros(n, frames, 2, device=device)
        self._jumps = torch.zeros(n, frames, device=device)
        self.kept: list[int] = []  # slots of the pool, in the order of the first clips here

    def __len__(self) -> int:
        return min(self._count, self._scale.clips)

    @torch.inference_mode()
    def absorb(self, pool: ClipPool, vae: ViewAutoencoder, most: int) -> None:
        """Encode up to ``most`` of the pool's finished clips and release their slots, except those of the first few."""
        pool.gather()
        waiting = [slot for slot in pool.filled() if slot not in set(self.kept)][:most]
        for slot in waiting:
            self._encode(pool, slot, vae, self._place())
            if len(self.kept) < self._scale.kept:
                self.kept.append(slot)
            else:
                pool.release([slot])
            self._count += 1

    def _place(self) -> int:
        kept = self._scale.kept
        return self._count if self._count < self._scale.clips else kept + self._count % (self._scale.clips - kept)

    def _encode(self, pool: ClipPool, slot: int, vae: ViewAutoencoder, place: int) -> None:
        views = pool.views[slot]
        with torch.autocast(self._scale.device, torch.bfloat16, enabled=self._scale.dtype == torch.bfloat16):
            parts = [encode_views(vae, views[i : i + ENCODED]) for i in range(0, len(views), ENCODED)]
        self._latents[place] = torch.cat(parts).half()
        words = pool.words[slot]
        for name in ("ids", "must", "offsets", "moves", "jumps"):
            getattr(self, f"_{name}")[place] = torch.from_numpy(words[name]).to(self._scale.device)

    def batch(self, generator: torch.Generator, size: int, chunks: int = CHUNKS, first: int = 0) -> Batch:
        """``size`` random clips from index ``first`` on, or as many stretches of ``chunks`` chunks."""
        device = self._scale.device
        picked = torch.randint(first, len(self), (size,), generator=generator, device=device)
        start = torch.randint(0, CHUNKS - chunks + 1, (size,), generator=generator, device=device)
        return self.at(generator, picked, start, chunks)

    def at(self, generator: torch.Generator, picked: Tensor, start: Tensor, chunks: int) -> Batch:
        """Stretches of ``chunks`` chunks from chunk ``start`` (B,) on of the clips ``picked`` (B,)."""
        device, size, per_chunk = self._scale.device, len(picked), self._scale.spec.chunk_latents
        group = start[:, None] + torch.arange(chunks, device=device)
        frame = per_chunk * start[:, None] + torch.arange(chunks * per_chunk, device=device)
        row = picked[:, None]
        posed = torch.rand(size, generator=generator, device=device) < POSED
        jumps = self._jumps[row, frame]
        jumps[:, 0] = 0
        flag = posed[:, None].expand_as(jumps).float()
        return Batch(
            latents=self._latents[row, frame].float(),
            ids=self._said(generator, row, group),
            offsets=self._offsets[row, frame],
            control=torch.cat([self._moves[row, frame], flag[..., None], jumps[..., None]], -1),
            posed=posed,
        )

    def _said(self, generator: torch.Generator, row: Tensor, group: Tensor) -> Tensor:
        """(B, G, slots, symbols): the first prompt, the required ones, and some others; each lasts until the next."""
        begins = torch.rand(group.shape, generator=generator, device=group.device) < NEW_WORDS
        begins |= self._must[row, group]
        begins[:, 0] = True
        order = torch.arange(group.shape[1], device=group.device)
        since = torch.where(begins, order, 0).cummax(1).values
        return self._ids[row, group[:, :1] + since].long()


def encode_views(vae: ViewAutoencoder, views: np.ndarray) -> Tensor:
    """Views (N, H, W, 3) uint8 to latents (N, C, h, w) on the autoencoder's device."""
    device = vae.mean.device
    pictures = torch.from_numpy(views).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return vae.encode(pictures.contiguous(memory_format=torch.channels_last))
