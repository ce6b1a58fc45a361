"""How the pictures of pafu-mini's decoders look: error, block borders and sharpness, next to the true world's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from model.codec.vae import StreamingVAE, from_pictures, to_pictures
from model.distill.data.clips import random_clip
from model.distill.data.world import Clip, render_views
from model.distill.evaluation.evaluate import served_cache
from model.distill.evaluation.judge import judge_prompts
from model.distill.evaluation.sheets import save_sheet
from model.distill.stages.decoder_stage import pairs_of
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel

SEED = 77  # no decoder was trained on these clips
CLIPS, CHUNKS = 24, 4
PREDICTED = range(900, 906)  # clips of the decoder's own seed, beyond those of its training
PROMPTS, SHOWN = 16, (2, 8)  # generated pictures: these views of each prompt's first three chunks
SHEET = (3, 77, 230)  # true views of the sheet
GENERATED = (1, 9, 21)  # generated ones
LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


@dataclass(frozen=True)
class Look:
    """border, inside: mean step between neighboring pixels at the borders of latents and halfway between them, in gray
    levels. sharpness: variance of the Laplacian. psnr: in decibels, None without a known truth."""

    what: str
    psnr: float | None
    border: float
    inside: float
    sharpness: float


def look_of(what: str, pictures: Tensor, truth: Tensor | None, side: int) -> Look:
    """Measure ``pictures`` (N, 3, H, W) in [-1, 1], whose latents are ``side`` pixels apart."""
    shown = pictures.float().clamp(-1, 1)
    gray = (shown * 127.5).mean(1)
    across, down = gray.diff(dim=-1).abs().mean((0, 1)), gray.diff(dim=-2).abs().mean((0, 2))
    border, inside = (
        float(across[first::side].mean() + down[first::side].mean()) / 2 for first in (side - 1, side // 2 - 1)
    )
    psnr = None if truth is None else float((10 * torch.log10(4 / (shown - truth).square().mean((1, 2, 3)))).mean())
    return Look(what, psnr, border, inside, float(F.conv2d(gray[:, None], LAPLACIAN).var()))


@torch.inference_mode()
def judge_looks(models: Sequence[LoadedModel], folder: Path) -> list[Look]:
    """Measure ``models``, which differ in detail only, smallest first; prints a table and draws looks.png."""
    small, looks = models[0], []
    clips = [random_clip(np.random.default_rng((SEED, n)), CHUNKS) for n in range(CLIPS)]
    true = _codec(small).encode(_views(clips, 1).to(small.dtype)).half().float()
    predicted = torch.cat([pairs_of(small, n, 1)["made"] for n in PREDICTED]).float()
    generated = _generated(small)
    for model in models:
        spec, vae = model.spec, _codec(model)
        truth = _views(clips, spec.detail)
        known = from_pictures(torch.cat([pairs_of(small, n, spec.detail)["views"] for n in PREDICTED]))
        cases = (
            ("the world", truth, None),
            ("true latents", _drawn(vae, true), truth),
            ("the student's predictions of known views", _drawn(vae, predicted), known),
            ("generated pictures", _drawn(vae, generated), None),
        )
        size = f"{spec.width}x{spec.height}"
        looks += [look_of(f"{size}: {what}", drawn, against, spec.spatial_stride) for what, drawn, against in cases]
        rows = [cases[0][1][list(SHEET)], cases[1][1][list(SHEET)], cases[3][1][list(GENERATED)]]
        save_sheet([to_pictures(row).numpy() for row in rows], folder / f"looks.{size}.png")
    Console().print(_table(looks))
    return looks


def _codec(model: LoadedModel) -> StreamingVAE:
    assert isinstance(model.vae, StreamingVAE)
    return model.vae


def _views(clips: Sequence[Clip], detail: int) -> Tensor:
    return from_pictures(torch.from_numpy(np.concatenate([render_views(clip, detail) for clip in clips])))


def _drawn(vae: StreamingVAE, latents: Tensor) -> Tensor:
    return torch.cat([vae.view(some).float() for some in latents.to(vae.mean.dtype).split(32)])


def _generated(model: LoadedModel) -> Tensor:
    views = []
    for seed, claims in enumerate(judge_prompts(PROMPTS)):
        stream = VideoStream(model, claims.prompt, seed, served_cache(model))
        views.append(torch.cat([stream.next_chunk().latents for _ in range(3)], 1)[0, list(SHOWN)])
    return torch.cat(views).float()


def _table(looks: Sequence[Look]) -> Table:
    table = Table("pictures", "PSNR, dB", "borders / inside", "sharpness")
    for look in looks:
        psnr = "-" if look.psnr is None else f"{look.psnr:.1f}"
        table.add_row(look.what, psnr, f"{look.border:.1f} / {look.inside:.1f}", f"{look.sharpness:.0f}")
    return table
