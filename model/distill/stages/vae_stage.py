"""Stages ``basis`` and ``vae``: fit the autoencoder's linear encoder, and train its streaming decoder on crops."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.codec.vae import StreamingVAE, from_pictures, to_pictures
from model.distill.data.clips import random_clip
from model.distill.data.world import render_clip, render_views
from model.distill.evaluation.sheets import save_sheet
from model.distill.training.losses import reconstruction_loss
from model.distill.training.stage import Losses, Stage
from model.spec import PAFU_MINI

SEED = 1001
CROP = (128, 96)  # height, width in pixels
CROPS = 16
LATENT_NOISE = 0.1  # in use, the decoder gets generated latents, which are never exact


def crops(step: int) -> Tensor:
    """uint8 (CROPS, h, w, 3), from two clips."""
    rng = np.random.default_rng((SEED, step))
    views = np.concatenate([render_views(random_clip(rng, chunks=4)) for _ in range(2)])
    out = []
    for index in rng.choice(len(views), CROPS, replace=False):
        x = int(rng.integers(0, views.shape[2] - CROP[1] + 1))
        out.append(views[index, :, x : x + CROP[1]])
    return torch.from_numpy(np.stack(out))


BASIS_CLIPS = 60
WHITENING = 0.5  # 0 keeps the components' strengths, 1 makes them equal


def fit_basis(vae: StreamingVAE) -> None:
    """Set the encoder to the principal components of rendered clips, with latents of mean variance one."""
    values = len(vae.mean)
    count, total, moment = 0, torch.zeros(values), torch.zeros(values, values)
    for index in track(range(BASIS_CLIPS), description="principal components"):
        clip = render_views(random_clip(np.random.default_rng((SEED, 10**6 + index)), chunks=8))
        blocks = vae.blocks(from_pictures(torch.from_numpy(clip))).flatten(0, -2)
        count, total, moment = count + len(blocks), total + blocks.sum(0), moment + blocks.T @ blocks
    mean = total / count
    variance, vectors = torch.linalg.eigh(moment / count - mean[:, None] * mean)
    strength = variance.flip(0)[: vae.scale.numel()].sqrt()
    kept = strength ** (1 - WHITENING)
    vae.mean.copy_(mean)
    vae.basis.copy_(vectors.flip(1)[:, : vae.scale.numel()])
    vae.scale.copy_(kept / kept.square().mean().sqrt() / strength)


def basis_stage(folder: Path) -> Path:
    """Fit the encoder once; returns its file."""
    path = folder / "basis.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        vae = StreamingVAE(PAFU_MINI)
        fit_basis(vae)
        save_file({name: getattr(vae, name) for name in ("mean", "basis", "scale")}, path)
    return path


def vae_with_basis(folder: Path) -> StreamingVAE:
    """The autoencoder with the fitted encoder of the run in ``folder``."""
    vae = StreamingVAE(PAFU_MINI)
    vae.load_state_dict(load_file(basis_stage(folder)), strict=False)
    return vae


def vae_stage(folder: Path, steps: int) -> Stage:
    """Train the decoder."""
    torch.manual_seed(SEED)
    vae = cast(StreamingVAE, vae_with_basis(folder).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)

    def loss(step: int) -> Losses:
        torch.manual_seed(SEED + step)
        truth = from_pictures(crops(step))
        with torch.no_grad():
            latents = vae.encode(truth)
        decoded = vae.view(latents + LATENT_NOISE * torch.randn_like(latents))
        return {"loss": reconstruction_loss(decoded, truth), "mse": (decoded - truth).square().mean()}

    def sample(step: int) -> None:
        clip = random_clip(np.random.default_rng((SEED, 10**9)), chunks=3)
        vae.eval()
        with torch.inference_mode():
            latents = vae.encode(from_pictures(torch.from_numpy(render_views(clip))))
            decoded, _ = vae.decode(latents[None], None, [(float(vae.pictures * speed), 0.0) for speed in clip.speeds])
        vae.train()
        picked = [0, 3, 12, 21, 35]
        save_sheet([render_clip(clip)[picked], to_pictures(decoded)[0, picked].numpy()], folder / f"vae.{step:06d}.png")

    return Stage("vae", folder, nn.ModuleDict({"vae": vae}), [optimizer], loss, steps, sample, every=200)
