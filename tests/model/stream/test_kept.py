"""Promise: the picture of the cache's content is correct, layer by layer and cell by cell."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cache.config import CacheConfig
from model.spec import TEST_TINY
from model.stream.kept import MOST_CELLS, kept_tokens
from model.stream.video_stream import VideoStream
from model.weights import random_model

SPEC = TEST_TINY
CONFIG = CacheConfig(policy="pafu", budget_latents=3, sink_latents=0, recent_latents=1, position_mode="relative")


@pytest.fixture(scope="module")
def session() -> VideoStream:
    torch.set_num_threads(1)
    stream = VideoStream(random_model(SPEC, 0, dtype=torch.float32), "a red house", 5, CONFIG)
    for _ in range(3):
        stream.next_chunk()
    return stream


def test_every_kept_token_is_in_its_cell_with_its_share_of_layers(session: VideoStream) -> None:
    seen = kept_tokens(session.cache, SPEC)
    cells = SPEC.tokens_per_latent
    assert (seen.rows, seen.columns) == (SPEC.token_rows, SPEC.token_columns)
    counts: dict[int, int] = {}
    for numbers in session.cache.retained_numbers():
        for number in numbers.tolist():
            counts[number] = counts.get(number, 0) + 1
    assert list(seen.latents) == sorted({number // cells for number in counts})
    for place, latent in enumerate(seen.latents):
        for cell in range(cells):
            expected = round(255 * counts.get(latent * cells + cell, 0) / SPEC.num_layers)
            assert seen.kept[place * cells + cell] == expected


def test_salience_is_the_rank_among_what_is_kept(session: VideoStream) -> None:
    seen, cells = kept_tokens(session.cache, SPEC), SPEC.tokens_per_latent
    salience = dict(zip(((latent, c) for latent in seen.latents for c in range(cells)), seen.salience, strict=True))
    best = [
        int(n[s.argmax()])
        for n, s in zip(session.cache.retained_numbers(), session.cache.retained_scores(), strict=True)
    ]
    only_once = [n for n in best if sum((numbers == n).any() for numbers in session.cache.retained_numbers()) == 1]
    for number in only_once:
        assert salience[number // cells, number % cells] == 255
    assert 0 in seen.salience and len(set(seen.salience)) > 10


def test_a_policy_without_scores_has_no_salience() -> None:
    config = dataclasses.replace(CONFIG, policy="sink_window", sink_latents=1)
    stream = VideoStream(random_model(SPEC, 0, dtype=torch.float32), "a red house", 5, config)
    for _ in range(2):
        stream.next_chunk()
    seen = stream.kept()
    assert (list(seen.latents), seen.salience) == ([0, 4, 5], b"")
    assert set(seen.kept) == {255}, "whole frames"


def test_fine_grids_are_averaged_to_something_small() -> None:
    spec = dataclasses.replace(SPEC, width=1024, height=1024)
    stream = VideoStream(random_model(SPEC, 0, dtype=torch.float32), "a red house", 5, CONFIG)
    stream.next_chunk()
    with torch.no_grad():
        seen = kept_tokens(stream.cache, spec)
    assert seen.rows * seen.columns <= MOST_CELLS and len(seen.kept) == len(seen.latents) * seen.rows * seen.columns


def test_tokens_in_host_memory_are_kept_too() -> None:
    config = dataclasses.replace(CONFIG, policy="retrieval", budget_latents=4, host_latents=4)
    stream = VideoStream(random_model(SPEC, 0, dtype=torch.float32), "a red house", 5, config)
    for _ in range(3):
        stream.next_chunk()
    seen = kept_tokens(stream.cache, SPEC)
    assert list(seen.latents) == [4, 5, 6, 7, 8], "of 9 latent frames the device holds 1, host memory 4"
    assert set(seen.kept) == {255}
