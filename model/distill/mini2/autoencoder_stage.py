"""Trains the autoencoder: first on pixels and their differences, later also with a discriminator for detail."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.codec.autoencoder import ViewAutoencoder
from model.distill.mini2.pool import ClipPool
from model.distill.mini2.run import Average, Losses, TimedRun, load_sharded, save_sharded
from model.distill.mini2.scale import Scale
from model.distill.training.critic import Critic, critic_loss, critic_weight
from model.distill.training.losses import reconstruction_loss

RATE, CRITIC_RATE = 1.5e-3, 2e-4
NOISE = 0.2  # standard deviation of the noise added to latents in training, at most
PARALLAX_WEIGHT = 0.5
CRITIC_FROM = 0.4  # share of the time
SEED = 4004


class Crops:
    """Crops of the pool's views, prepared by a thread while the device computes."""

    def __init__(self, pool: ClipPool, scale: Scale) -> None:
        self._pool, self._scale = pool, scale
        self._ready: queue.Queue[tuple[Tensor, Tensor]] = queue.Queue(maxsize=3)
        self._stop = threading.Event()
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        rng = np.random.default_rng(SEED)
        while not self._stop.is_set():
            arrays = self._pool.crops(rng, self._scale.crops, *self._scale.crop)
            views, parallax = (torch.from_numpy(array) for array in arrays)
            if self._scale.device == "cuda":
                views, parallax = views.pin_memory(), parallax.pin_memory()
            while not self._stop.is_set():
                try:
                    self._ready.put((views, parallax), timeout=1)
                    break
                except queue.Full:
                    continue

    def next(self) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, h, w) in [-1, 1] and parallax (B, h, w), on the device."""
        views, parallax = (t.to(self._scale.device, non_blocking=True) for t in self._ready.get())
        pictures = views.permute(0, 3, 1, 2).float() / 127.5 - 1
        return pictures.contiguous(memory_format=torch.channels_last), parallax.float() / 100

    def close(self) -> None:
        self._stop.set()


class Painting:
    """The decoder's losses: reconstruction, and later the critic."""

    def __init__(self, vae: ViewAutoencoder, scale: Scale) -> None:
        self._vae, self._scale = vae, scale
        self.critic = Critic().to(scale.device)
        self.critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its types
        self._optimizer = torch.optim.AdamW(self.critic.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.9))

    def learn(self, latents: Tensor, pictures: Tensor, parallax: Tensor, critic: bool) -> Losses:
        """Losses of ``latents`` with the truth (``pictures``, ``parallax``), after their backward pass; then trains the
        critic."""
        with self.autocast():
            drawn, depth = self._vae.view(latents)
        drawn, depth = drawn.float(), depth.float()
        pixels = reconstruction_loss(drawn, pictures)
        loss = pixels + PARALLAX_WEIGHT * (depth - parallax).abs().mean()
        losses = {"pixels": pixels, "mse": (drawn - pictures).square().mean(), "depth": (depth - parallax).abs().mean()}
        if critic:
            with self.autocast():
                opinion = -self.critic(drawn).float().mean()
            weight = critic_weight(pixels, opinion, self._vae.decoder.paint.weight)
            loss = loss + weight * opinion
            losses |= {"opinion": opinion, "weight": weight}
        loss.backward()
        if critic:
            losses["critic"] = self._teach_critic(drawn.detach(), pictures)
        return {"loss": loss, **losses}

    def _teach_critic(self, drawn: Tensor, pictures: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            drawn_score, true_score = self.critic(torch.cat([drawn, pictures])).float().chunk(2)
        loss = critic_loss(drawn_score, true_score)
        loss.backward()
        self._optimizer.step()
        return loss

    def autocast(self) -> torch.autocast:
        return torch.autocast(self._scale.device, torch.bfloat16, enabled=self._scale.dtype == torch.bfloat16)


class AutoencoderStage:
    """Holds the autoencoder, its average and its critic across both of its trainings."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        torch.manual_seed(SEED)
        self._scale, self._folder = scale, folder
        self.vae = ViewAutoencoder(scale.spec)
        if saved := load_sharded(folder, "ae"):
            self.vae.load_state_dict(saved)
        self.vae.to(scale.device)
        self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its types
        self.average = Average(self.vae, 0.998)
        self.painting = Painting(self.vae, scale)

    def train(self, pool: ClipPool, minutes: float) -> None:
        optimizer = torch.optim.AdamW(self.vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
        crops = Crops(pool, self._scale)

        def step(number: int, progress: float) -> Losses:
            pool.gather()
            pictures, parallax = crops.next()
            with self.painting.autocast():
                latents = self.vae.encode_in_training(pictures)
            noise = NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
            latents = latents + noise * torch.randn_like(latents)
            return self.painting.learn(latents, pictures, parallax, progress > CRITIC_FROM)

        TimedRun(
            "ae", minutes, self._folder, step, [optimizer], list(self.vae.parameters()), self.average.update, self.save
        ).run()
        crops.close()

    def save(self) -> None:
        save_sharded(self._folder, "ae", self.average.module.state_dict())
