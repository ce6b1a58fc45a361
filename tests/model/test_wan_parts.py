"""Promise: Wan's text encoder and VAEs give the same results as the public code."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from cache.config import CacheConfig
from model.codec.vae import to_pictures
from model.spec import SELF_FORCING, TEST_WAN, WAN_1_3B
from model.stream.video_stream import VideoStream
from model.wan.text import REMEMBERED, Umt5, clean, umt5_tiny
from model.wan.tiny_vae import Grow, Memory, TinyVAE
from model.wan.vae import WanVAE, wan_vae, wan_vae_tiny
from model.weights import random_model

LATENTS = 7
CHUNKS = [[7], [3, 3, 1], [1] * 7, [2, 5]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(2)


@pytest.fixture
def vae() -> WanVAE:
    return wan_vae_tiny(TEST_WAN).eval().requires_grad_(False)


@pytest.fixture
def tiny() -> TinyVAE:
    return TinyVAE(TEST_WAN).eval().requires_grad_(False)


def latents() -> torch.Tensor:
    return torch.randn(1, LATENTS, TEST_WAN.latent_channels, 4, 6)


@pytest.mark.parametrize("cut", CHUNKS, ids=str)
def test_any_cut_into_chunks_decodes_to_what_diffusers_decodes_at_once(cut: list[int], vae: WanVAE) -> None:
    z = latents()
    reference = AutoencoderKLWan(base_dim=4)
    reference.load_state_dict(vae.vae.state_dict())
    mean, std = (torch.tensor(reference.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    whole = reference.decode(z.transpose(1, 2) * std + mean).sample.detach().transpose(1, 2)
    state, pictures = None, []
    for chunk in z.split(cut, dim=1):
        made, state = vae.decode(chunk, state)
        pictures.append(made)
    assert [len(made[0]) for made in pictures] == [4 * n - 3 * (i == 0) for i, n in enumerate(cut)]
    assert torch.equal(torch.cat(pictures, 1).clamp(-1, 1), whole)


def test_a_start_picture_is_encoded_as_diffusers_encodes_it(vae: WanVAE) -> None:
    picture = torch.rand(3, 32, 48) * 2 - 1
    mode = vae.vae.encode(picture[None, :, None]).latent_dist.mode()
    config = vae.vae.config
    expected = (mode[0, :, 0] - torch.tensor(config.latents_mean).view(-1, 1, 1)) / torch.tensor(
        config.latents_std
    ).view(-1, 1, 1)
    torch.testing.assert_close(vae.encode_start(picture, 3)[0, 0], expected, atol=1e-5, rtol=0)
    assert vae.encode_start(picture, 3).shape == (1, 3, 16, 4, 6)


def test_the_full_vae_has_wans_shape() -> None:
    with torch.device("meta"):
        vae = wan_vae(WAN_1_3B).vae
    assert sum(parameter.numel() for parameter in vae.parameters()) == 126_892_531


def all_at_once(vae: TinyVAE, z: torch.Tensor) -> torch.Tensor:
    """TAEHV's own method for a whole clip: every memory is the previous frame, with zeros at the start."""
    x = z[0]
    for block in vae.decoder:
        x = (
            block.conv(torch.cat((x, F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:-1]), 1)).add(x).relu()
            if isinstance(block, Memory)
            else block(x)
        )
    return x[3:].clamp(0, 1) * 2 - 1


@pytest.mark.parametrize("cut", CHUNKS, ids=str)
def test_the_tiny_decoder_makes_the_same_of_any_cut(cut: list[int], tiny: TinyVAE) -> None:
    z = latents()
    state, pictures = None, []
    for chunk in z.split(cut, dim=1):
        made, state = tiny.decode(chunk, state)
        pictures.append(made[0])
    assert [len(made) for made in pictures] == [4 * n - 3 * (i == 0) for i, n in enumerate(cut)]
    torch.testing.assert_close(torch.cat(pictures), all_at_once(tiny, z), atol=1e-5, rtol=0)


def test_the_tiny_vae_has_the_tensors_of_the_public_file(tiny: TinyVAE) -> None:
    state = {name: tuple(tensor.shape) for name, tensor in tiny.state_dict().items()}
    assert len(state) == 128
    expected = {
        "decoder.1.weight": (256, 16, 3, 3),
        "decoder.3.conv.4.bias": (256,),
        "decoder.7.conv.weight": (256, 256, 1, 1),
        "decoder.8.weight": (128, 256, 3, 3),
        "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.19.conv.weight": (128, 64, 1, 1),
        "decoder.22.weight": (3, 64, 3, 3),
        "encoder.2.conv.weight": (64, 128, 1, 1),
        "encoder.12.conv.weight": (64, 64, 1, 1),
        "encoder.17.weight": (16, 64, 3, 3),
    }
    assert {name: state.get(name) for name in expected} == expected
    assert [block.times for block in tiny.decoder if isinstance(block, Grow)] == [1, 2, 2]


@pytest.fixture
def encoder() -> Umt5:
    made = umt5_tiny(TEST_WAN)
    made.settle(torch.device("cpu"), torch.float32).eval().requires_grad_(False)
    return made


def test_text_states_are_those_of_transformers_and_zero_after_the_words(encoder: Umt5) -> None:
    config = UMT5Config(**{**encoder.encoder.config.to_dict()})
    reference = UMT5EncoderModel(config).eval()
    reference.load_state_dict(encoder.encoder.state_dict())
    tokens = encoder.tokenizer(["a cat & a dog"], max_length=64, padding="max_length", return_tensors="pt")
    length = int(tokens["attention_mask"].sum())
    states = reference(**tokens).last_hidden_state[0].detach()
    found = encoder.encode("  a   cat &amp;amp; a dog ")
    assert found.shape == (TEST_WAN.text_len, TEST_WAN.text_dim)
    torch.testing.assert_close(found[:length], states[:length], atol=1e-6, rtol=0)
    assert not found[length:].any()


def test_prompts_longer_than_the_slots_are_cut(encoder: Umt5) -> None:
    assert encoder.encode("word " * 400).shape == (TEST_WAN.text_len, TEST_WAN.text_dim)


def test_recent_prompts_are_not_encoded_again(encoder: Umt5) -> None:
    asked = []
    encoder.encoder.register_forward_hook(lambda *_: asked.append(1))
    for prompt in ("a", "b", "a", " a "):
        encoder.encode(prompt)
    assert len(asked) == 2
    for number in range(REMEMBERED):
        encoder.encode(f"other {number}")
    encoder.encode("a")
    assert len(asked) == 2 + REMEMBERED + 1


@pytest.mark.parametrize(
    ("said", "cleaned"),
    [("a&amp;amp;b", "a&b"), ("  two\n\tlines ", "two lines"), ("cafÃ©", "café"), ("“so”", '"so"')],
)
def test_words_are_cleaned_as_wan_cleans_them(said: str, cleaned: str) -> None:
    assert clean(said) == cleaned


def test_chunks_of_nine_and_then_twelve_pictures_equal_the_whole_decode() -> None:
    model = random_model(TEST_WAN, seed=0, dtype=torch.float32)
    stream = VideoStream(model, "a cat", 1, CacheConfig.filled_in("pafu", 6.0, None, None, 3))
    chunks = [stream.next_chunk() for _ in range(3)]
    assert [len(chunk.pictures) for chunk in chunks] == [9, 12, 12]
    whole, _ = model.vae.decode(torch.cat([chunk.latents for chunk in chunks], 1))
    assert (to_pictures(whole)[0].numpy() == torch.cat([torch.from_numpy(c.pictures) for c in chunks]).numpy()).all()
    restored = VideoStream.restore(model, stream.snapshot())
    assert (stream.next_chunk().pictures == restored.next_chunk().pictures).all()


def test_a_frame_wise_student_takes_more_steps_for_its_first_picture() -> None:
    spec = dataclasses.replace(
        TEST_WAN, chunk_latents=1, denoising_steps=(1000,), first_steps=SELF_FORCING.denoising_steps
    )
    stream = VideoStream(
        random_model(spec, seed=0, dtype=torch.float32), "a cat", 1, CacheConfig.filled_in("window", 6.0, 0, None, 1)
    )
    passes: list[int] = []
    made = [len(stream.next_chunk(partial(passes.append, index)).pictures) for index in range(3)]
    assert made == [1, 4, 4] and [passes.count(index) for index in range(3)] == [5, 2, 2]
