"""Promise: chunk by chunk over a cache equals one pass with a block-causal mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from cache.kv_cache import KVCache
from model.spec import TEST_TINY, ModelSpec
from model.transformer.attention import Angles, BlockCausal, Cached, Watch, rotate_by_time
from model.transformer.dit import CausalDiT
from model.transformer.positions import grid_positions
from model.transformer.sampler import clean_from_velocity

CHUNKS = 3
SPEC = dataclasses.replace(TEST_TINY, width=96, height=64)


def clip(spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """Latents, timesteps, positions, control and text of a clip whose camera pans."""
    torch.manual_seed(3)
    frames = CHUNKS * spec.chunk_latents
    latents = torch.randn(1, frames, spec.latent_channels, spec.latent_height, spec.latent_width)
    offsets = torch.arange(frames) * 13.5 - 40
    positions = grid_positions(spec, 0, frames, offsets)
    control = torch.rand(1, frames, spec.control_dim)
    text = torch.randn(1, 1, spec.text_len, spec.text_dim)
    return latents, torch.rand(1, frames) * 1000, positions, control, text


@pytest.mark.parametrize("position_range", [None, 24], ids=["absolute", "relative"])
@torch.no_grad()
def test_chunks_over_a_full_cache_equal_one_block_causal_pass(
    position_range: int | None,
    seeded_dit: Callable[[ModelSpec], CausalDiT],
    new_cache: Callable[..., KVCache],
) -> None:
    spec = SPEC
    dit = seeded_dit(spec)
    latents, timesteps, positions, control, text = clip(spec)
    context = dit.encode_context(text)
    whole = dit(latents, timesteps, context, BlockCausal(positions, spec, spec.tokens_per_chunk), control)

    cache = new_cache(spec, position_range=position_range)
    for chunk in range(CHUNKS):
        part = slice(chunk * spec.chunk_latents, (chunk + 1) * spec.chunk_latents)
        tokens = slice(chunk * spec.tokens_per_chunk, (chunk + 1) * spec.tokens_per_chunk)
        cache.begin_chunk(positions[0, tokens], rotate_by_time(spec))
        attention = Cached(cache, Angles.of(cache.chunk_positions(), spec))
        # A first pass over other numbers, as denoising makes it: the second must overwrite all that it wrote.
        dit(latents[:, part] + 1, timesteps[:, part], context, attention, control[:, part])
        attention.watch = Watch(cache.needs, None)
        velocity = dit(latents[:, part], timesteps[:, part], context, attention, control[:, part])
        cache.commit()
        torch.testing.assert_close(velocity, whole[:, part], atol=1e-5, rtol=0)


@torch.no_grad()
def test_frames_see_only_the_prompt_of_their_group(seeded_dit: Callable[[ModelSpec], CausalDiT]) -> None:
    spec = SPEC
    dit = seeded_dit(spec)
    latents, timesteps, positions, control, _ = clip(spec)
    texts = torch.randn(1, CHUNKS, spec.text_len, spec.text_dim)
    other = texts.clone()
    other[:, -1] += 1
    attention = BlockCausal(positions, spec, spec.tokens_per_chunk)
    first = dit(latents, timesteps, dit.encode_context(texts), attention, control)
    second = dit(latents, timesteps, dit.encode_context(other), attention, control)
    unchanged = (CHUNKS - 1) * spec.chunk_latents
    torch.testing.assert_close(first[:, :unchanged], second[:, :unchanged])
    assert (first[:, unchanged:] - second[:, unchanged:]).abs().max() > 1e-3


@torch.no_grad()
def test_a_model_that_predicts_clean_latents_reaches_the_sampler_as_velocity(
    seeded_dit: Callable[[ModelSpec], CausalDiT],
) -> None:
    spec = dataclasses.replace(SPEC, predicts="clean")
    clean, raw = seeded_dit(spec), seeded_dit(dataclasses.replace(spec, predicts="velocity"))
    latents, timesteps, positions, control, text = clip(spec)
    timesteps = timesteps.clamp(min=250)  # near 0 a velocity means nothing
    attention = BlockCausal(positions, spec, spec.tokens_per_chunk)
    context = clean.encode_context(text)
    velocity = clean(latents, timesteps, context, attention, control)
    expected = raw(latents, timesteps, context, attention, control)
    torch.testing.assert_close(clean_from_velocity(latents, velocity, timesteps), expected, atol=1e-5, rtol=0)
