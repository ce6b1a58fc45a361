"""Contact sheets and measurements: truth, the autoencoder's round trip, and the student's pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.codec.autoencoder import ViewAutoencoder
from model.distill.evaluation.sheets import save_sheet
from model.distill.mini2.clips import Batch, LatentClips
from model.distill.mini2.lessons import Student
from model.distill.mini2.pool import ClipPool
from model.distill.mini2.scale import CHUNKS, Scale
from model.spec import ModelSpec
from model.transformer.attention import BlockCausal
from model.transformer.sampler import denoise

FRAMES = (0, 2, 8, 14, 20, 23)
CLIPS = 5
BLOCK = 16  # pixels of a latent, at whose borders seams would appear


@torch.inference_mode()
def roll_out(student: Student, batch: Batch, spec: ModelSpec, seed: int) -> Tensor:
    """Latents (B, F, C, h, w) that the student generates chunk by chunk with its whole past, for the batch's prompts
    and camera."""
    generator = torch.Generator(batch.latents.device).manual_seed(seed)
    past = batch.latents[:, :0]
    positions, context = batch.positions(spec), student.context(batch.ids)
    per_chunk = spec.chunk_latents
    for chunk in range(batch.ids.shape[1]):
        frames = (chunk + 1) * per_chunk
        attention = BlockCausal(positions[:, : frames * spec.tokens_per_latent], spec, spec.tokens_per_chunk)
        known = [(k[:, : chunk + 1], v[:, : chunk + 1]) for k, v in context]

        def velocity(
            x_t: Tensor,
            t: float,
            past: Tensor = past,
            attention: BlockCausal = attention,
            known: list[tuple[Tensor, Tensor]] = known,
            frames: int = frames,
        ) -> Tensor:
            times = torch.zeros(len(x_t), frames, device=x_t.device)
            times[:, -per_chunk:] = t
            out: Tensor = student.dit(torch.cat([past, x_t], 1), times, known, attention, batch.control[:, :frames])
            return out[:, -per_chunk:]

        shape = (len(past), per_chunk, *batch.latents.shape[2:])
        draw = partial(torch.randn, shape, generator=generator, device=past.device)
        past = torch.cat([past, denoise(velocity, draw, spec.timesteps)], 1)
    return past


def sharpness(pictures: Tensor) -> float:
    """Variance of the Laplacian of grey pictures (N, 3, H, W)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=pictures.device)[None, None]
    return float(F.conv2d(pictures.float().mean(1, keepdim=True), kernel).var())


def seam(pictures: Tensor) -> float:
    """Mean difference between neighbouring pixels at block borders, divided by that inside blocks."""
    across = pictures.float().mean(1).diff(dim=-1).abs().mean((0, 1))
    down = pictures.float().mean(1).diff(dim=-2).abs().mean((0, 2))
    at = [float(steps[BLOCK - 1 :: BLOCK].mean() / steps[BLOCK // 2 - 1 :: BLOCK].mean()) for steps in (across, down)]
    return sum(at) / 2


def figures(name: str, drawn: Tensor, truth: Tensor) -> dict[str, float]:
    error = (drawn.clamp(-1, 1) - truth).square().mean((1, 2, 3))
    return {
        f"{name}.psnr": round(float((10 * torch.log10(4 / error)).mean()), 2),
        f"{name}.sharpness": round(sharpness(drawn) / sharpness(truth), 3),
        f"{name}.seam": round(seam(drawn) / seam(truth), 3),
    }


def views_of(pool: ClipPool, slot: int) -> Tensor:
    """(F, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pool.views[slot]).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def look_at_autoencoder(vae: ViewAutoencoder, pool: ClipPool, scale: Scale, path: Path) -> dict[str, float]:
    """A sheet with two rows per clip, truth and round trip, and its measurements."""
    rows, truths, drawns = [], [], []
    for slot in pool.filled()[-CLIPS:]:
        truth = views_of(pool, slot)[list(FRAMES)].to(scale.device)
        drawn, parallax = vae.view(vae.encode(truth))
        truths.append(truth)
        drawns.append(drawn.float())
        rows += [as_row(truth), as_row(drawn)]
    rows.append(as_row(parallax[:, None].expand(-1, 3, -1, -1) / 0.75 - 1))
    save_sheet(rows, path)
    return figures("round_trip", torch.cat(drawns), torch.cat(truths))


@torch.inference_mode()
def look_at_student(
    student: Student, vae: ViewAutoencoder, clips: LatentClips, pool: ClipPool, scale: Scale, path: Path
) -> dict[str, float]:
    """A sheet with three rows per clip: truth, round trip, and the student's roll-out, alternately posed and not."""
    device, count = scale.device, min(CLIPS, len(clips.kept))
    generator = torch.Generator(device).manual_seed(1)
    picked = torch.arange(count, device=device)
    batch = clips.at(generator, picked, torch.zeros_like(picked), CHUNKS)
    batch.posed = picked % 2 == 0
    batch.control[..., 2] = batch.posed[:, None].float()
    made, rows = roll_out(student, batch, scale.spec, seed=1), []
    frames = list(FRAMES)
    for i in range(count):
        rows.append(as_row(views_of(pool, clips.kept[i])[frames]))
        rows += [as_row(vae.view(latents[i, frames])[0]) for latents in (batch.latents, made)]
    save_sheet(rows, path)
    drift = (made[:, -3:].var() / batch.latents[:, -3:].var()).item()
    return {"variance_last_chunk": round(drift, 3), "variance_first": round(made[:, :3].var().item(), 3)}


def as_row(pictures: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [-1, 1] to uint8 (N, H / 2, W / 2, 3)."""
    small = F.avg_pool2d(pictures.float().cpu(), 2).clamp(-1, 1)
    return ((small + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
