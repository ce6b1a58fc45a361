"""The size of a run: for one GPU with sixteen cores, for a CPU with small batches, or a rehearsal on two cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from model.spec import PAFU_MINI_2, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a run."""

    spec: ModelSpec
    device: str
    dtype: torch.dtype  # of forward and backward passes; weights are float32
    workers: int
    slots: int  # clips stored as pictures, 12.6 MB each
    first_clips: int  # clips before training starts
    kept: int  # clips whose pictures are kept after encoding
    clips: int  # latent clips at most, 0.6 MB each
    crops: int  # per step of the autoencoder
    crop: tuple[int, int]
    stills: int  # single latent frames per step; below: first chunks, stretches of three chunks, whole clips
    beginnings: int
    stretches: int
    whole: int
    absorbed: int  # new clips encoded at once


CHUNKS = PAFU_MINI_2.trained_latents // PAFU_MINI_2.chunk_latents

GPU = Scale(
    spec=PAFU_MINI_2,
    device="cuda",
    dtype=torch.bfloat16,
    workers=14,
    slots=4800,
    first_clips=60,
    kept=400,
    clips=14_000,
    crops=128,
    crop=(128, 192),
    stills=768,
    beginnings=256,
    stretches=72,
    whole=32,
    absorbed=8,
)

CPU = replace(  # of the autoencoder: minutes on one core with bf16 arithmetic make a start
    GPU,
    device="cpu",
    workers=1,
    slots=60,
    first_clips=6,
    kept=4,
    clips=50,
    crops=8,
    crop=(128, 128),
    stills=16,
    beginnings=8,
    stretches=4,
    whole=1,
    absorbed=2,
)

REHEARSAL = replace(
    GPU,
    spec=replace(PAFU_MINI_2, dim=80, ffn_dim=160, num_heads=2, num_layers=2),
    device="cpu",
    dtype=torch.float32,
    workers=1,
    slots=5,
    first_clips=2,
    kept=2,
    clips=40,
    crops=2,
    crop=(64, 64),
    stills=8,
    beginnings=4,
    stretches=2,
    whole=1,
    absorbed=2,
)

SCALES = {"gpu": GPU, "cpu": CPU, "rehearsal": REHEARSAL}
