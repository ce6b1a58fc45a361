"""Renders one clip of the second world in a worker process: views, prompts and camera motion."""

from __future__ import annotations

import numpy as np
import torch

from model.distill.mini2.pool import DrawnClip
from model.distill.world2 import Clip, prompts_by_chunk, random_clip, render_views
from model.distill.world2.size import CHUNK_LATENTS, MAX_SPEED, PICTURES_PER_CHUNK, PICTURES_PER_LATENT
from model.spec import PAFU_MINI_2
from model.words.text2 import phrase_ids


def draw_clip(rng: np.random.Generator, chunks: int) -> DrawnClip:
    clip = random_clip(rng, chunks)
    drawn = render_views(clip)
    parallax: np.ndarray = np.round(drawn["parallax"].astype(np.float32) * 100).astype(np.uint8)
    return DrawnClip(drawn["views"], parallax, words_of_clip(rng, clip))


def words_of_clip(rng: np.random.Generator, clip: Clip) -> dict[str, np.ndarray]:
    """ids (G, slots, symbols): a possible prompt per chunk; must (G,): chunks that need a new prompt because the light
    changes; offsets (F, 2) pixels; moves (F, 2) in MAX_SPEED per picture; jumps (F,): 1 where the camera jumped."""
    prompts = prompts_by_chunk(rng, clip)
    ids = torch.stack([phrase_ids(prompt, PAFU_MINI_2.text_len) for prompt in prompts])
    lights = [clip.light_at(chunk * PICTURES_PER_CHUNK)[:2] for chunk in range(clip.chunks)]
    offsets, speeds = clip.offsets.astype(np.float32), clip.speeds.astype(np.float32)
    expected = offsets[:-1] + PICTURES_PER_LATENT * speeds[1:]
    jumps = np.zeros(len(offsets), np.float32)
    jumps[1:] = (np.abs(offsets[1:] - expected) > 1).any(-1)
    return {
        "ids": ids.numpy().astype(np.uint8),
        "must": np.array([chunk > 0 and lights[chunk] != lights[chunk - 1] for chunk in range(clip.chunks)]),
        "offsets": offsets,
        "moves": speeds / MAX_SPEED,
        "jumps": jumps,
    }


assert CHUNK_LATENTS == PAFU_MINI_2.chunk_latents
