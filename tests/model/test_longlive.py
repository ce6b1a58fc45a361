"""Promise: a prompt change equals LongLive's inference loop, reimplemented from its description.

LongLive's cache stores keys that are already rotated by absolute position: a window of 12 latent frames including the
open chunk, always with the first 3 of the stream. When the prompt changes, the newest 12 latents pass once more, clean
and under the new prompt. The sinks keep their keys, so the oldest rewritten latents find no slot. LongLive describes
this pass as block-causal and builds the mask, but its published code (v1.0) does not use the mask with a cache, so that
rewritten latents see later ones. We follow the description: every other pass of the student is causal.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from cache.config import CacheConfig, PositionMode
from model.spec import LONGLIVE, TEST_WAN
from model.stream.video_stream import SEED_PRIME, VideoStream
from model.transformer.dit import Context
from model.weights import LoadedModel, random_model

WINDOW, SINK, CHUNK, SEED = 12, 3, 3, 5
CONFIG = CacheConfig.filled_in(
    LONGLIVE.cache_policy,
    LONGLIVE.cache_budget_latents,
    LONGLIVE.cache_sink_latents,
    None,
    CHUNK,
    LONGLIVE.position_mode,
)
BEFORE, AFTER = "a cat walks on the grass", "a storm over the sea"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    spec = dataclasses.replace(TEST_WAN, recache_chunks=LONGLIVE.recache_chunks, width=48, height=32)
    return random_model(spec, seed=0, dtype=torch.float32)


def turned(x: Tensor, first: int, rows: int, columns: int) -> Tensor:
    """Wan's rotation in complex numbers, for x (1, S, H, D) whose first latent frame is ``first``."""
    latents, half = x.shape[1] // (rows * columns), x.shape[-1] // 2
    places = torch.cartesian_prod(torch.arange(first, first + latents), torch.arange(rows), torch.arange(columns))
    side = x.shape[-1] // 6
    phases = [
        places[:, axis, None] / 10000 ** (torch.arange(pairs, dtype=torch.float64) / pairs)
        for axis, pairs in enumerate((half - 2 * side, side, side))
    ]
    phase = torch.cat(phases, -1)[None, :, None]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(phase), phase)).flatten(-2).float()


class Theirs:
    """LongLive's loop with one list of slots per layer: (chunk, keys, values) of one latent frame each."""

    def __init__(self, model: LoadedModel, masked: bool = True) -> None:
        self.model, self.masked = model, masked
        self.slots: list[list[tuple[int, Tensor, Tensor]]] = [[] for _ in range(model.spec.num_layers)]
        self.made: list[Tensor] = []  # latents of each chunk
        self.first = 0  # latent frame of the pass in hand

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec = self.model.spec
        size, slots = spec.tokens_per_latent, self.slots[layer]
        q, k = (turned(each, self.first, spec.token_rows, spec.token_columns) for each in (q, k))
        numbers = range(self.first, self.first + q.shape[1] // size)
        fresh = list(zip(numbers, k[0].split(size), v[0].split(size), strict=True))
        sinks = [] if self.first == 0 else slots[:SINK]
        older = [slot for slot in slots[SINK:] if slot[0] < self.first]
        slots[:] = sinks + (older + fresh)[len(sinks) - WINDOW :]
        keys, values = (torch.cat([slot[which] for slot in slots]) for which in (1, 2))
        scores = torch.einsum("shd,thd->hst", q[0], keys) / q.shape[-1] ** 0.5
        if self.masked:
            ours, held = (torch.tensor(each) // CHUNK for each in (list(numbers), [slot[0] for slot in slots]))
            seen = (ours[:, None] >= held).repeat_interleave(size, 0).repeat_interleave(size, 1)
            scores = scores.masked_fill(~seen, -torch.inf)
        return torch.einsum("hst,thd->shd", scores.softmax(-1), values)[None]

    def step(self, latents: Tensor, timestep: float, context: Context) -> Tensor:
        return self.model.dit(latents, torch.full(latents.shape[:2], timestep), context, self)

    def chunk(self, context: Context) -> None:
        index = len(self.made)
        self.first = index * CHUNK
        generator = torch.Generator().manual_seed(SEED * SEED_PRIME + index)
        shape = (1, CHUNK, *clean_shape(self.model))
        x0 = torch.zeros(shape)
        for timestep in (1000.0, 937.5, 2500 / 3, 625.0):
            sigma = timestep / 1000
            x_t = (1 - sigma) * x0 + sigma * torch.randn(shape, generator=generator)
            x0 = x_t - sigma * self.step(x_t, timestep, context)
        self.step(x0, 0.0, context)
        self.made.append(x0)

    def change(self, context: Context) -> None:
        again = self.made[-WINDOW // CHUNK :]
        self.first = (len(self.made) - len(again)) * CHUNK
        self.step(torch.cat(again, 1), 0.0, context)


def clean_shape(model: LoadedModel) -> tuple[int, int, int]:
    return model.spec.latent_channels, model.spec.latent_height, model.spec.latent_width


@torch.inference_mode()
def theirs(model: LoadedModel, switch: int, chunks: int, masked: bool = True) -> Tensor:
    before, after = (model.dit.encode_context(model.text.encode(words)[None, None]) for words in (BEFORE, AFTER))
    loop = Theirs(model, masked)
    for index in range(chunks):
        if index == switch:
            loop.change(after)
        loop.chunk(after if index >= switch else before)
    return torch.cat(loop.made, 1)


def ours(model: LoadedModel, switch: int, chunks: int, position_mode: PositionMode = "absolute") -> Tensor:
    config = dataclasses.replace(CONFIG, position_mode=position_mode)
    stream, made = VideoStream(model, BEFORE, SEED, config), []
    for index in range(chunks):
        stream.set_prompt(AFTER if index >= switch else BEFORE)
        made.append(stream.next_chunk().latents)
    return torch.cat(made, 1)


@pytest.mark.parametrize("switch", [1, 3, 4, 5, 7], ids=lambda switch: f"after {switch * CHUNK} latents")
def test_a_change_of_words_is_longlives(switch: int, model: LoadedModel) -> None:
    """Before, at and after a full window of 12; only after it do sinks keep what was written under the old prompt."""
    torch.testing.assert_close(ours(model, switch, switch + 2), theirs(model, switch, switch + 2), atol=1e-4, rtol=0)


def test_its_published_code_lets_what_is_rewritten_see_what_came_later(model: LoadedModel) -> None:
    as_published = theirs(model, 5, 6, masked=False)
    causal = ours(model, 5, 6)
    torch.testing.assert_close(causal[:, :15], as_published[:, :15], atol=1e-4, rtol=0)
    assert (causal[:, 15:] - as_published[:, 15:]).abs().max() > 1e-3


def test_a_sink_older_than_the_trained_range_has_the_reference_s_position(model: LoadedModel) -> None:
    """In absolute mode; in relative mode no token is farther away than in training."""
    chunks, never = model.spec.trained_latents // CHUNK + 3, 1000
    reference = theirs(model, never, chunks)
    torch.testing.assert_close(ours(model, never, chunks), reference, atol=1e-4, rtol=0)
    far = (ours(model, never, chunks, "relative") - reference).abs().amax((0, 2, 3, 4))
    assert far[: model.spec.trained_latents].max() < 1e-4 and far[model.spec.trained_latents :].min() > 1e-3
