"""Promise: in training the student sees what a cache would show it, and an interruption changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from model.codec.vae import StreamingVAE, between, from_pictures, to_pictures
from model.distill.evaluation.judge import same_again
from model.distill.evaluation.probe import Seen
from model.distill.training.muon import Muon, orthogonalise
from model.distill.training.stage import Stage
from model.distill.training.teacher_forcing import Past, TeacherForced, forgotten_in_sight, random_past
from model.spec import TEST_TINY
from model.transformer import rope
from model.transformer.attention import attend
from model.transformer.positions import grid_positions

FRAMES = 9


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def random_qkv(copies: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (2, copies * FRAMES * TEST_TINY.tokens_per_latent, TEST_TINY.num_heads, TEST_TINY.head_dim)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


def slow_mask(past: Past | None) -> torch.Tensor:
    """(B, 2S, 2S): True where attention is allowed, computed directly from the definition."""
    chunk, tokens = TEST_TINY.tokens_per_chunk, FRAMES * TEST_TINY.tokens_per_latent
    mask = torch.zeros(2, 2 * tokens, 2 * tokens, dtype=torch.bool)
    for start in range(0, tokens, chunk):
        seen = past.visible(start, chunk) if past and start else torch.ones(2, start, dtype=torch.bool)
        for own in (start, start + tokens):
            mask[:, own : own + chunk, :start] = seen[:, None]
            mask[:, own : own + chunk, own : own + chunk] = True
    return mask


NEVER = 10**6


def walked() -> torch.Tensor:
    """Positions (2, S, 3) of three chunks: one clip walks two screens and half of the way back, one stays."""
    walk = torch.tensor([0.0] * 3 + [2.0 * TEST_TINY.width] * 3 + [0.5 * TEST_TINY.width] * 3)
    return torch.cat([grid_positions(TEST_TINY, 0, FRAMES, offsets) for offsets in (walk, torch.zeros(FRAMES))])


@pytest.mark.parametrize("share", [0.0, 1.0, None])
@pytest.mark.parametrize("words", [False, True])
def test_teacher_forcing_equals_full_attention_under_its_mask(share, words):
    positions = walked()
    generator = torch.Generator().manual_seed(3)
    forgotten = forgotten_in_sight(positions, torch.full((2, FRAMES // 3), words), TEST_TINY)
    past = None if share is None else random_past(generator, forgotten, TEST_TINY, share)
    q, k, v = random_qkv(2)
    got = TeacherForced(positions, TEST_TINY, past)(0, q, k, v)
    twice = torch.cat([positions, positions], 1)
    rotated = [rope.rotate(x, twice, TEST_TINY.rope_split, TEST_TINY.rope_theta) for x in (q, k)]
    wanted = attend(*rotated, v, slow_mask(past)[:, None])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_what_a_past_evicted_never_comes_back():
    generator = torch.Generator().manual_seed(5)
    chunk = TEST_TINY.tokens_per_chunk
    worth = torch.rand(1, 6 * chunk, generator=generator)
    past = Past(worth, torch.tensor([chunk + 10]), torch.full_like(worth, NEVER, dtype=torch.long))
    before = past.visible(chunk, chunk)
    for chunks in range(2, 6):
        now = past.visible(chunks * chunk, chunk)
        assert now.sum() == chunk + 10
        assert not (now[:, : before.shape[1]] & ~before).any()
        before = now


def test_new_words_hide_the_tokens_in_view_and_no_others():
    chunk = TEST_TINY.tokens_per_chunk
    new = torch.tensor([[False, False, True], [False, True, False]])
    positions = walked()
    forgotten = forgotten_in_sight(positions, new, TEST_TINY)
    past = Past(torch.zeros(2, 3 * chunk), torch.tensor([3 * chunk] * 2), forgotten)
    assert past.visible(chunk, chunk)[0].all(), "no words were new"
    right_half = positions[0, :chunk, 2] > TEST_TINY.token_columns / 2 - 0.5
    seen = past.visible(2 * chunk, chunk)[0]
    assert torch.equal(~seen[:chunk], right_half) and seen[chunk:].all()
    assert not past.visible(chunk, chunk)[1].any()
    later = past.visible(2 * chunk, chunk)[1]
    assert not later[:chunk].any() and later[chunk:].all(), "what was forgotten came back, or what came after is gone"


def small_stage(folder, steps: int, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    optimizers = [Muon([net.weight], 1e-2), torch.optim.AdamW([net.bias], 1e-2)]

    def loss(step):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return {"loss": (net(x) - x.flip(1)).square().mean()}

    stage = Stage("small", folder, nn.ModuleDict({"net": net}), optimizers, loss, steps, ema=0.9, every=5)
    if stop_after:
        full, stage.loss = stage.loss, lambda step: full(step) if step < stop_after else _interrupt()
    try:
        stage.run()
    except KeyboardInterrupt:
        pass
    return stage.weights()


def _interrupt():
    raise KeyboardInterrupt


def test_an_interrupted_stage_ends_where_an_uninterrupted_one_ends(tmp_path):
    whole = small_stage(tmp_path / "whole", 20)
    small_stage(tmp_path / "parts", 20, stop_after=13)
    resumed = small_stage(tmp_path / "parts", 20)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_orthogonalised_updates_have_singular_values_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(1))))
    assert 0.5 < values.min() and values.max() < 1.3


def test_decoding_chunk_by_chunk_equals_decoding_at_once():
    torch.manual_seed(1)
    vae = StreamingVAE(TEST_TINY).eval()
    nn.init.normal_(vae.decoder.paint.weight, std=0.05)
    nn.init.normal_(vae.basis, std=0.02)
    latents = torch.randn(1, 6, TEST_TINY.latent_channels, TEST_TINY.latent_height, TEST_TINY.latent_width)
    with torch.inference_mode():
        whole, _ = vae.decode(latents)
        first, state = vae.decode(latents[:, :3])
        second, _ = vae.decode(latents[:, 3:], state)
        forgetful, _ = vae.decode(latents[:, 3:])
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(forgetful, second, atol=1e-4)  # the state does matter


def test_pictures_survive_the_way_to_floats_and_back():
    pictures = torch.randint(0, 256, (1, 4, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(to_pictures(from_pictures(pictures)), pictures)


def test_a_landmark_counts_as_remembered_only_with_its_kind_colour_and_place():
    house = Seen("house", "red", "blue", 100.0, 0.9)
    first = [house, house]
    assert same_again(first, [dataclasses.replace(house, x=110.0)]) == [True]
    assert same_again(first, [dataclasses.replace(house, x=190.0)]) == [False]
    assert same_again(first, [dataclasses.replace(house, colour="green")]) == [False]
    assert same_again(first, [dataclasses.replace(house, kind="tower")]) == [False]


@pytest.mark.parametrize("speed", [-16, -4, 0, 12])
def test_pictures_between_two_views_of_a_still_world_are_exact(speed):
    world = torch.rand(1, 3, 8, 400)
    crop = lambda offset: world[..., offset : offset + 128]  # noqa: E731
    before, now = crop(150), crop(150 + 4 * speed)
    for part in range(4):
        torch.testing.assert_close(between(before, now, speed, part, 4), crop(150 + part * speed))


@pytest.mark.parametrize("speed", [-16, 8])
def test_a_stream_waits_at_its_first_view_since_nothing_knows_what_lies_beyond(speed):
    view = torch.rand(1, 3, 8, 128)
    assert all(torch.equal(between(None, view, speed, part, 4), view) for part in range(4))
