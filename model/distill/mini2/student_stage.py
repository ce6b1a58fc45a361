"""The causal few-step student, trained directly on latents, and the decoder's second training on its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.codec.autoencoder import ViewAutoencoder
from model.distill.mini2.autoencoder_stage import AutoencoderStage
from model.distill.mini2.clips import LatentClips
from model.distill.mini2.lessons import Lessons, Student, own_past
from model.distill.mini2.pool import ClipPool
from model.distill.mini2.run import Average, Losses, TimedRun, Twin, load_sharded, save_sharded
from model.distill.mini2.scale import CHUNKS, Scale
from model.distill.training.muon import optimizers
from model.transformer.dit import CausalDiT, init_for_learning
from model.words.text2 import text_encoder

MATRIX_RATE, OTHER_RATE = 6e-3, 2e-3
RESUMED = 0.4  # factor on the rates for weights that were trained before
EVERY = 10  # steps between two checks for new clips
POLISH_RATE = 3e-4
POLISH_CLIPS, POLISH_VIEWS = 6, 24  # per step: clips that the student generates, and views of them that are decoded
OWN_SHARE = 0.6  # share of the decoded views from the student; the others are true latents
SEED = 5005


class StudentStage:
    """Holds the student and its average across trainings."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        torch.manual_seed(SEED)
        self._scale, self._folder = scale, folder
        dit = CausalDiT(scale.spec)
        init_for_learning(dit)
        self.modules = nn.ModuleDict({"dit": dit, "text": text_encoder(scale.spec)})
        self.resumed = load_sharded(folder, "student")
        if self.resumed:
            self.modules.load_state_dict(self.resumed)
        self.modules.to(scale.device)
        self.average = Average(self.modules, 0.998)

    def train(
        self, clips: LatentClips, pool: ClipPool, vae: ViewAutoencoder, minutes: float, compiled: bool = False
    ) -> None:
        scale, rate = self._scale, RESUMED if self.resumed else 1.0
        twin = Twin(self.modules, scale.dtype)
        student = Student.of(twin.module)
        if compiled:
            for block in student.dit.blocks:
                block.forward = torch.compile(block.forward)
        lessons = Lessons(clips, scale, SEED)

        def step(number: int, progress: float) -> Losses:
            if number % EVERY == 0:
                clips.absorb(pool, vae, scale.absorbed)
            twin.refresh()
            losses = lessons.losses(student, number, max(progress, 0.5) if self.resumed else progress)
            losses["loss"].backward()
            twin.collect()
            return losses | {"clips": torch.tensor(float(len(clips)))}

        TimedRun(
            "student",
            minutes,
            self._folder,
            step,
            optimizers(self.modules, rate * MATRIX_RATE, rate * OTHER_RATE),
            list(self.modules.parameters()),
            self.average.update,
            self.save,
        ).run()

    def save(self) -> None:
        save_sharded(self._folder, "student", self.average.module.state_dict())


def polish(
    ae: AutoencoderStage, student: StudentStage, clips: LatentClips, pool: ClipPool, scale: Scale, minutes: float
) -> None:
    """Train only the decoder on the student's output: its last-step latents against the true views."""
    ae.vae.load_state_dict(ae.average.module.state_dict())
    decoder = ae.vae.decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=POLISH_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    maker = Student.of(Twin(student.average.module, scale.dtype).module)
    generator, rng = torch.Generator(scale.device).manual_seed(SEED), np.random.default_rng(SEED)

    def step(number: int, progress: float) -> Losses:
        latents, pictures, parallax = _made(maker, clips, pool, scale, generator, rng)
        return ae.painting.learn(latents, pictures, parallax, critic=True)

    TimedRun(
        "polish", minutes, ae._folder, step, [optimizer], list(decoder.parameters()), ae.average.update, ae.save
    ).run()


def _made(
    maker: Student,
    clips: LatentClips,
    pool: ClipPool,
    scale: Scale,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, C, h, w), mostly the student's, with their true pictures and parallax."""
    device = scale.device
    picked = torch.from_numpy(rng.integers(0, len(clips.kept), POLISH_CLIPS)).to(device)
    batch = clips.at(generator, picked, torch.zeros_like(picked), CHUNKS)
    noise = torch.randn(batch.latents.shape, generator=generator, device=device)
    made = own_past(maker, batch, scale.spec, noise)
    clip, frame = rng.integers(0, POLISH_CLIPS, POLISH_VIEWS), rng.integers(0, made.shape[1], POLISH_VIEWS)
    own = torch.from_numpy(rng.random(POLISH_VIEWS) < OWN_SHARE).to(device)[:, None, None, None]
    latents = torch.where(own, made[clip, frame], batch.latents[clip, frame])
    slots = np.array(clips.kept)[picked.cpu().numpy()][clip]
    views = torch.from_numpy(pool.views[slots, frame]).to(device)
    pictures = views.permute(0, 3, 1, 2).float() / 127.5 - 1
    parallax = torch.from_numpy(pool.parallax[slots, frame]).to(device).float() / 100
    return latents, pictures.contiguous(memory_format=torch.channels_last), parallax
