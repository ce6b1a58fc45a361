"""Stage ``decoder``: trains the autoencoder's decoder on the latents that it will decode in use.

Half of its latents are true ones with a little noise. The other half are the student's predictions from noised true
latents with the true past, as in the sampler's last steps; their true pictures are known too. The losses are on pixels
and their differences, later also from a critic. A decoder of larger pictures begins as the smaller one, and learns from
the same world drawn in more detail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from model.camera import MAX_SPEED, view_offset
from model.codec.vae import StreamingVAE, from_pictures, to_pictures
from model.distill.data.dataset import Batch, clip_of, said_tensors
from model.distill.data.world import render_views
from model.distill.evaluation.sheets import save_sheet
from model.distill.training.critic import Critic, critic_loss, critic_weight
from model.distill.training.losses import reconstruction_loss
from model.distill.training.parallel import encode_context
from model.distill.training.stage import Losses, Stage
from model.distill.training.teacher_forcing import TeacherForced
from model.spec import PAFU_MINI
from model.transformer.sampler import add_noise, clean_from_velocity
from model.weights import LoadedModel

SPEC = PAFU_MINI
SEED = 6006
CLIPS = 320  # of 24 views
HELD_OUT = 8  # additional clips for inspection
CROP = 8  # latent columns
CROPS = 12
TRUE_NOISE, MADE_NOISE = 0.2, 0.1  # standard deviation of the noise added to latents, at most
RATE, CRITIC_RATE = 1.5e-3, 2e-4
CRITIC_FROM = 0.6  # share of the steps
JUDGED = 2  # every second crop is judged by the critic, which costs as much as the decoder
LAST_STEPS = 2  # the sampler steps whose predictions the decoder trains on


@dataclass
class Pairs:
    """Views uint8 (N, detail * H, detail * W, 3), their latents and the student's predictions of them, both (N, C, h,
    w)."""

    views: Tensor
    true: Tensor
    made: Tensor

    def crops(self, step: int) -> tuple[Tensor, Tensor]:
        """Latents (CROPS, C, h, CROP), the first half true ones, and pictures in [-1, 1]; depends only on ``step``."""
        rng = np.random.default_rng((SEED, step))
        generator = torch.Generator().manual_seed(SEED * 100_003 + step)
        latents, pictures = [], []
        for place, index in enumerate(rng.choice(len(self.views), CROPS, replace=False)):
            source, noise = (self.true, TRUE_NOISE) if place < CROPS // 2 else (self.made, MADE_NOISE)
            x = int(rng.integers(0, SPEC.latent_width - CROP + 1))
            crop = source[index, :, :, x : x + CROP].float()
            latents.append(crop + noise * rng.random() * torch.randn(crop.shape, generator=generator))
            side = self.views.shape[2] // SPEC.latent_width
            pictures.append(self.views[index, :, x * side : (x + CROP) * side])
        return torch.stack(latents), from_pictures(torch.stack(pictures))


def pairs_of(model: LoadedModel, n: int, detail: int) -> dict[str, Tensor]:
    """The n-th clip: its views in ``detail``, latents, and the student's predictions."""
    clip = clip_of(SEED, n)
    views = torch.from_numpy(render_views(clip))
    true = model.vae.encode(from_pictures(views).to(model.dtype)).float()  # type: ignore[attr-defined]
    said = said_tensors(clip, np.random.default_rng((SEED, n, 1)))
    offsets = [float(view_offset(*frame)) for frame in zip(clip.offsets, clip.speeds, strict=True)]
    control = torch.tensor(clip.speeds, dtype=torch.float32)[:, None] / MAX_SPEED
    batch = Batch(true[None], said["ids"][None].long(), torch.tensor([offsets]), control[None], said["lights"][None])
    shown = views if detail == 1 else torch.from_numpy(render_views(clip, detail))
    tensors = {"views": shown, "true": true.half(), "made": predictions(model, batch, n)[0].half()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@torch.inference_mode()
def predictions(model: LoadedModel, batch: Batch, seed: int) -> Tensor:
    """The student's clean latents (B, F, C, h, w) of every chunk, from a noise level of one of the sampler's last
    timesteps and the true previous chunks."""
    generator = torch.Generator().manual_seed(SEED * 100_003 + seed)
    size, frames = batch.latents.shape[:2]
    last = torch.tensor(SPEC.timesteps[-LAST_STEPS:])
    drawn = last[torch.randint(0, LAST_STEPS, batch.ids.shape[:2], generator=generator)]
    timesteps = drawn.repeat_interleave(SPEC.chunk_latents, 1)
    noisy = add_noise(batch.latents, torch.randn(batch.latents.shape, generator=generator), timesteps)
    states = model.text(batch.ids.flatten(0, 1)).unflatten(0, batch.ids.shape[:2])  # type: ignore[operator]
    velocity = model.dit(
        torch.cat([batch.latents, noisy], 1),
        torch.cat([torch.zeros_like(timesteps), timesteps], 1),
        [(torch.cat([k, k], 1), torch.cat([v, v], 1)) for k, v in encode_context(model.dit, states)],
        TeacherForced(batch.positions(), SPEC),
        torch.cat([batch.control] * 2, 1),
    )[:, frames:]
    return clean_from_velocity(noisy, velocity, timesteps)


def load_pairs(model: LoadedModel, folder: Path, clips: range, detail: int = 1) -> Pairs:
    """The pairs of ``clips``; missing ones are made in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in track(clips, description="the student's predictions of clips"):
        path = folder / f"{n:05d}.safetensors"
        if not path.exists():
            aside = path.with_suffix(".part")
            save_file(pairs_of(model, n, detail), aside)
            aside.replace(path)
    rows = [load_file(folder / f"{n:05d}.safetensors") for n in clips]
    return Pairs(*(torch.cat([row[name] for row in rows]) for name in ("views", "true", "made")))


def decoder_stage(model: LoadedModel, folder: Path, steps: int, detail: int = 1) -> Stage:
    """Train the decoder of ``model`` for pictures in ``detail``; its other parts do not change."""
    torch.manual_seed(SEED)
    name = decoder_name(detail)
    pairs = load_pairs(model, folder / f"{name}.pairs", range(CLIPS), detail)
    seen = load_pairs(model, folder / f"{name}.pairs", range(CLIPS, CLIPS + HELD_OUT), detail)
    vae, critic = begun(model, detail), Critic()
    modules = nn.ModuleDict({"vae": vae, "critic": critic})
    modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rates: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
        torch.optim.AdamW(critic.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.9)),
    ]
    lesson = Painting(vae, critic, model.dtype)

    def loss(step: int) -> Losses:
        return lesson.losses(*pairs.crops(step), asked=step >= CRITIC_FROM * steps)

    stage = Stage(name, folder, modules, rates, loss, steps, ema=0.998, every=250)
    stage.sample = lambda step: save_look(stage.weights(), seen, folder / f"{name}.{step:06d}.png", detail)
    return stage


def decoder_name(detail: int) -> str:
    """The stage's name, with which its files begin."""
    return "decoder" if detail == 1 else f"decoder{detail}"


def begun(model: LoadedModel, detail: int) -> StreamingVAE:
    """An autoencoder that draws in ``detail``, as far as possible with the weights of ``model``; the rest is fresh."""
    vae = StreamingVAE(SPEC.at(detail * SPEC.view_width, detail * SPEC.view_height))
    fresh, known = vae.state_dict(), model.vae.state_dict()  # type: ignore[attr-defined]
    fitting = {name: value.float() for name, value in known.items() if fresh[name].shape == value.shape}
    vae.load_state_dict(fresh | fitting)
    return vae


class Painting:
    """The decoder's losses, including the critic's from CRITIC_FROM on."""

    def __init__(self, vae: StreamingVAE, critic: Critic, dtype: torch.dtype) -> None:
        self._vae, self._critic = vae, critic
        self._autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)

    def losses(self, latents: Tensor, truth: Tensor, asked: bool) -> Losses:
        truth = truth.contiguous(memory_format=torch.channels_last)
        with self._autocast:
            drawn = self._vae.view(latents).float()
        pixels = reconstruction_loss(drawn, truth)
        losses = {"loss": pixels, "pixels": pixels.detach(), "mse": (drawn - truth).square().mean()}
        return losses | self._with_critic(pixels, drawn, truth) if asked else losses

    def _with_critic(self, pixels: Tensor, drawn: Tensor, truth: Tensor) -> Losses:
        frozen = {name: value.detach() for name, value in self._critic.named_parameters()}
        with self._autocast:
            opinion = -functional_call(self._critic, frozen, (drawn[::JUDGED],)).float().mean()
            scores = self._critic(torch.cat([drawn[::JUDGED].detach(), truth[::JUDGED]])).float()
        weight = critic_weight(pixels, opinion, self._vae.decoder.paint.weight)
        critic = critic_loss(*scores.chunk(2))
        return {"loss": pixels + weight * opinion + critic, "critic": critic.detach()}


def save_look(weights: dict[str, Tensor], pairs: Pairs, path: Path, detail: int) -> None:
    """A sheet with three rows: truth, decoded true latents, decoded predictions."""
    vae = StreamingVAE(SPEC.at(detail * SPEC.view_width, detail * SPEC.view_height)).eval()
    vae.load_state_dict({name.removeprefix("vae."): v for name, v in weights.items() if name.startswith("vae.")})
    picked = list(range(5, len(pairs.views), 32))[:6]
    with torch.inference_mode():
        rows = [to_pictures(vae.view(latents[picked].float())).numpy() for latents in (pairs.true, pairs.made)]
    save_sheet([pairs.views[picked].numpy(), *rows], path)
