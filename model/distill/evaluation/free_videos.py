"""Free videos of an evaluation: the model's own pictures, under each cache policy, with the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cache.config import CacheConfig
from model.codec.vae import to_pictures
from model.distill.data.script import Script
from model.distill.data.tours import shown
from model.distill.training.rollout import Foresight, Rollout
from model.weights import LoadedModel

FULL = "full"
SEED = 7001


class FreeVideos:
    """The free videos of one model, ``together`` at a time. The full cache comes first: its videos are the
    ``references`` by kind, and give the oracle its foresight. ``made`` is called with the number of new chunks. Other
    values of ``seed`` give other noise."""

    def __init__(self, model: LoadedModel, together: int, made: Callable[[int], None], seed: int = 0) -> None:
        self.references: dict[str, list[Tensor]] = {}
        self._model, self._together, self._made = model, together, made
        self._foresight: dict[str, list[Foresight]] = {}
        self._first_seed = SEED * (1 + seed) + 500

    def make(self, kind: str, scripts: Sequence[Script], config: CacheConfig) -> list[Tensor]:
        """Latents (F, C, h, w) of each script's video; ``kind`` identifies the evaluation."""
        full, chunks = config.policy == FULL, scripts[0].chunks if scripts else 0
        if full:
            self._foresight[kind] = [Foresight(self._model.spec, chunks) for _ in scripts]
        foresight, videos = self._foresight[kind], []
        for first in range(0, len(scripts), self._together):
            batch = slice(first, first + self._together)
            seeds = [self._first_seed + first + i for i in range(len(scripts[batch]))]
            rollout = Rollout(self._model, scripts[batch], seeds, config, foresight[batch], full)
            rows = []
            for _ in range(chunks):
                rows.append(rollout.draw())
                rollout.commit(rows[-1])
                self._made(len(seeds))
            videos += list(torch.cat(rows, 1).cpu())
        if full:
            self.references[kind] = videos
        return videos

    def pictures(self, latents: Tensor) -> np.ndarray:
        """The view of every latent frame as uint8 (F, H, W, 3)."""
        return to_pictures(shown(self._model, latents)).numpy()

    def played(self, latents: Tensor, script: Script) -> np.ndarray:
        """Every picture of a video as viewers see it, uint8 (T, H, W, 3)."""
        model = self._model
        pictures, _ = model.vae.decode(latents[None].to(model.device, model.dtype), None, script.motions(model.spec))
        return to_pictures(pictures)[0].cpu().numpy()
