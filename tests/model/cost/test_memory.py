"""Promise: a model's memory is known in advance: the count equals what a run then uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cache.config import CacheConfig, room_for_caches
from model.checkpoints.public import Beside, codec_named
from model.cost.memory import LiveBytes, MemoryPlan, fitting, of_another, plan, table
from model.group.cost import CountedGroup, sent_per_chunk
from model.parts import build
from model.spec import SPECS, TEST_WAN, WAN_1_3B, ModelSpec
from model.stream.video_stream import VideoStream
from model.weights import load_model, random_model
from tests.model.checkpoints import small_wan, write

GIB = 2**30
CONFIG = CacheConfig.filled_in("sink_window", 6.0, None, None, 3)


@pytest.mark.parametrize(("size", "devices"), [((96, 64), 1), ((192, 96), 1), ((192, 96), 4)])
def test_a_run_takes_what_was_counted(size: tuple[int, int], devices: int) -> None:
    spec = TEST_WAN.at(*size)
    counted = plan(spec, CONFIG, torch.float32, device="cpu", devices=devices)
    model = random_model(spec, seed=0, dtype=torch.float32)
    if devices > 1:
        model.dit.group = CountedGroup(devices)
    for part, module in (("transformer", model.dit), ("text", model.text), ("codec", model.vae)):
        tensors = {id(each): each.nbytes for each in (*module.parameters(), *module.buffers())}  # type: ignore[attr-defined]
        assert getattr(counted, part) == sum(tensors.values()), part
    stream = VideoStream(model, "a cat", 1, CONFIG)
    for _ in range(3):
        stream.next_chunk()
    assert counted.cache == stream.cache.nbytes
    assert counted.workspace == stream.cache.workspace.nbytes
    assert counted.codec_state == sum(tensor.nbytes for tensor in stream._state.vae_state or [])
    for words in ("a cat", "a dog"):  # the second has what is remembered written again
        stream.set_prompt(words)
        with LiveBytes() as live:
            stream.next_chunk()
        assert live.peak == pytest.approx(counted.working, rel=0.05)


@pytest.mark.parametrize("spec", [WAN_1_3B, TEST_WAN, SPECS["pafu-mini"]], ids=lambda spec: spec.name)
def test_admission_counts_what_the_codec_remembers(spec: ModelSpec) -> None:
    counted = plan(spec, CONFIG, torch.bfloat16)
    remembered = spec.codec_bytes("bfloat16")
    assert remembered == counted.codec_state or (not remembered and counted.codec_state < 2**20)


def test_a_tiny_vae_in_the_files_is_what_the_table_and_admission_count(tmp_path: Path) -> None:
    model = small_wan()
    tiny = build("taew2.1", TEST_WAN)
    folder = write(tmp_path / "tiny", model, vae=tiny.state_dict())
    codec = codec_named(folder, Beside())
    assert codec == "taew2.1" and codec_named(write(tmp_path / "full", model), Beside()) is None
    assert codec_named(tmp_path / "no" / "such", Beside()) is None, "loading tells what is wrong"
    counted = plan(TEST_WAN, CONFIG, torch.float32, "cpu", codec=codec)
    loaded = load_model(TEST_WAN, folder, dtype=torch.float32)
    assert counted.codec == sum(each.nbytes for each in loaded.vae.parameters())  # type: ignore[attr-defined]
    stream = VideoStream(loaded, "a cat", 1, CONFIG)
    for _ in range(2):
        stream.next_chunk()
    remembered = sum(tensor.nbytes for tensor in stream._state.vae_state or [])
    assert counted.codec_state == remembered == loaded.spec.codec_bytes("float32")


def test_the_full_size_is_counted_without_memory() -> None:
    counted = plan(WAN_1_3B, dataclasses.replace(CONFIG, budget_latents=6.0), torch.bfloat16, text_placement="cpu")
    assert counted.transformer == 2 * 1_418_996_800
    assert counted.cache / GIB == pytest.approx(1.641, abs=0.01)  # 6 latent frames of 1,560 tokens


def test_each_weight_counts_once_and_a_text_encoder_that_visits_shares_the_working_memory() -> None:
    counted = {place: plan(TEST_WAN, CONFIG, torch.bfloat16, text_placement=place) for place in ("device", "offload")}
    text = random_model(TEST_WAN, seed=0, dtype=torch.bfloat16).text
    size = sum(each.nbytes for each in {*text.parameters(), *text.buffers()})  # type: ignore[attr-defined]
    assert counted["device"].text == counted["offload"].visit == size and counted["offload"].text == 0
    assert plan(WAN_1_3B, CONFIG, torch.bfloat16).text == 2 * 5_680_910_336  # words and their embeddings are one tensor


def test_the_memory_of_a_frame_wise_student_s_codec_after_its_first_picture_counts() -> None:
    spec = dataclasses.replace(TEST_WAN, chunk_latents=1)
    config = CacheConfig.filled_in("window", 6.0, None, None, 1)
    stream = VideoStream(random_model(spec, seed=0, dtype=torch.float32), "a cat", 1, config)
    for _ in range(4):
        stream.next_chunk()
    remembered = sum(tensor.nbytes for tensor in stream._state.vae_state or [])
    assert plan(spec, config, torch.float32, "cpu").codec_state == remembered


def test_a_chunk_s_temporaries_leave_less_room_for_caches() -> None:
    assert room_for_caches(100) == room_for_caches(100, working=30) == 70
    assert room_for_caches(100, working=45) == 55 and room_for_caches(100, working=200) == room_for_caches(-5) == 0


SMALL = MemoryPlan(
    where="cuda",
    transformer=6 * GIB,
    text=0,
    visit=8 * GIB,
    codec=GIB,
    passing=2 * GIB,
    decoding=0,
    workspace=0,
    cache=3 * GIB,
    codec_state=2 * GIB,
)


def test_the_table_says_where_it_fits() -> None:
    assert SMALL.least == 20 * GIB and SMALL.sessions(20 * GIB) == 1 and SMALL.sessions(20 * GIB - 1) == 0
    rows = table({"on a GPU": SMALL}, {"24 GB card": "1 session"})
    assert rows[0] == ("", "on a GPU") and rows[-1] == ("24 GB card", "1 session")
    assert ("text encoder, while it encodes", "8.00 GiB") in rows and ("cache, per session", "3.00 GiB") in rows


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (26, "2 sessions"),
        (20, "1 session"),
        (15, "does not fit; 1 would with --text-placement cpu"),
        (11, "does not fit; 1 would with --text-placement cpu --cache-budget-latents 3"),
        (9, "does not fit"),
    ],
)
def test_where_it_does_not_fit_the_settings_are_named_with_which_it_would(room: int, said: str) -> None:
    found = dataclasses.replace(SMALL, cache=4 * GIB, codec_state=GIB)
    assert fitting(found, TEST_WAN, dataclasses.replace(CONFIG, budget_latents=6.0), torch.bfloat16, room * GIB) == said


def test_in_a_group_each_device_has_its_share_and_the_first_one_the_parts_besides() -> None:
    alone, first = (plan(TEST_WAN, CONFIG, torch.bfloat16, devices=devices) for devices in (1, 4))
    other = of_another(first)
    assert alone.transformer == first.transformer == other.transformer
    assert 4 * first.workspace == 4 * other.workspace == alone.workspace
    assert first.codec == alone.codec and first.codec_state == alone.codec_state and first.text == alone.text
    assert other.codec == other.codec_state == other.text == other.decoding == 0
    assert other.session < first.session < alone.session and first.passing < alone.passing


def test_what_a_group_sends_is_counted_from_its_own_passes() -> None:
    """Four tensors are exchanged per layer and pass; a policy that reads keys has each layer's sent to one process."""
    spec, size = TEST_WAN, 2
    cache = dataclasses.replace(CONFIG, policy="redundancy")
    sent = sent_per_chunk(spec, cache, size)
    own, passes = spec.tokens_per_chunk // size, len(spec.timesteps) + 1
    shown = 4 * spec.latent_channels  # numbers that a token of 2 x 2 latents becomes
    assert sent["passes"] == passes * own * 2 * (spec.num_layers * 4 * spec.dim // size + shown)
    keys = (
        9 * spec.tokens_per_latent * spec.dim // size * 2
    )  # of one layer: those of 6 kept latent frames and the chunk
    rounds = -(-spec.num_layers // size)
    assert rounds * keys < sent["pruning"] < 1.2 * rounds * keys + 50_000
