"""Promise: a stream behaves correctly with random weights, whose pictures are meaningless."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cache.config import CacheConfig
from cache.errors import CacheError, CacheFull
from model.camera import MAX_SPEED, CameraControl, CameraState
from model.codec.vae import to_pictures
from model.spec import TEST_TINY
from model.stream.stream_state import StreamError
from model.stream.video_stream import Chunk, NotFiniteError, VideoStream
from model.transformer import rope
from model.transformer.salience import SalienceHead
from model.weights import LoadedModel, random_model

SPEC = TEST_TINY
CONFIG = CacheConfig(policy="sink_window", budget_latents=4, sink_latents=1, recent_latents=2, position_mode="relative")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return random_model(SPEC, seed=0, dtype=torch.float32)


@pytest.fixture
def stream(model: LoadedModel) -> Callable[..., VideoStream]:
    def build(seed: int = 5, **config: object) -> VideoStream:
        return VideoStream(model, "a red house", seed, dataclasses.replace(CONFIG, **config))

    return build


def same(ours: Chunk, theirs: Chunk) -> bool:
    return torch.equal(ours.latents, theirs.latents) and np.array_equal(ours.pictures, theirs.pictures)


def eventful(stream: VideoStream) -> list[Chunk]:
    """Five chunks with a prompt change and camera moves between them."""
    chunks = [stream.next_chunk()]
    stream.set_camera(CameraControl(speed=12))
    chunks.append(stream.next_chunk())
    stream.set_prompt("a blue tower at night")
    chunks += [stream.next_chunk(), stream.next_chunk()]
    stream.set_camera(CameraControl(cut_to=1.5))
    return [*chunks, stream.next_chunk()]


def test_a_chunk_brings_its_pictures_and_its_costs(stream: Callable[..., VideoStream]) -> None:
    chunk = stream().next_chunk()
    assert chunk.pictures.shape == (SPEC.pictures_in_chunk(0), SPEC.height, SPEC.width, 3)
    assert chunk.pictures.dtype == np.uint8 and chunk.pictures.std() > 1
    assert set(chunk.stats.seconds) == {"text", "denoise", "clean", "decode", "prune"}
    assert all(seconds >= 0 for seconds in chunk.stats.seconds.values())
    assert (chunk.index, chunk.stats.cache_tokens, chunk.stats.evicted_tokens) == (0, SPEC.tokens_per_chunk, 0)


def test_the_same_seed_and_events_give_the_same_bits(stream: Callable[..., VideoStream]) -> None:
    assert all(map(same, eventful(stream()), eventful(stream())))


def test_another_seed_gives_another_video(stream: Callable[..., VideoStream]) -> None:
    assert not same(stream(seed=5).next_chunk(), stream(seed=6).next_chunk())


def test_the_budget_holds_and_its_bytes_are_those_promised(stream: Callable[..., VideoStream]) -> None:
    session = stream()
    promise = CONFIG.promised_bytes(
        layers=SPEC.num_layers,
        heads=SPEC.num_heads,
        head_dim=SPEC.head_dim,
        tokens_per_latent=SPEC.tokens_per_latent,
        tokens_per_chunk=SPEC.tokens_per_chunk,
        dtype="float32",
    )
    chunks = [session.next_chunk() for _ in range(4)]
    assert [chunk.stats.cache_bytes for chunk in chunks] == [promise] * 4
    per_latent = SPEC.tokens_per_latent
    assert [chunk.stats.cache_tokens for chunk in chunks] == [
        3 * per_latent,
        4 * per_latent,
        4 * per_latent,
        4 * per_latent,
    ]
    assert [chunk.stats.evicted_tokens for chunk in chunks] == [0, 2 * per_latent, 3 * per_latent, 3 * per_latent]
    session.cache.check_integrity()


def test_a_window_that_nothing_leaves_equals_full_bit_for_bit(stream: Callable[..., VideoStream]) -> None:
    roomy = {"budget_latents": 15, "sink_latents": 0, "recent_latents": 0}
    assert all(map(same, eventful(stream(policy="full", **roomy)), eventful(stream(policy="window", **roomy))))


def test_what_left_the_cache_is_forgotten_and_what_stayed_is_not(stream: Callable[..., VideoStream]) -> None:
    full = stream(policy="full", budget_latents=15)
    pruned = stream()
    kept, lost = [full.next_chunk() for _ in range(4)], [pruned.next_chunk() for _ in range(4)]
    assert same(kept[0], lost[0]) and same(kept[1], lost[1]), "nothing was pruned before the third chunk"
    assert not same(kept[2], lost[2])


def test_changes_count_from_the_next_chunk(stream: Callable[..., VideoStream]) -> None:
    plain, steered, told = stream(), stream(), stream()
    assert same(plain.next_chunk(), steered.next_chunk()) and told.next_chunk()
    steered.set_camera(CameraControl(speed=-8))
    told.set_prompt("snow at night")
    expected = plain.next_chunk()
    moved = steered.next_chunk()
    assert not same(expected, moved) and not same(expected, told.next_chunk())
    assert (moved.stats.camera.offset, moved.stats.camera.speed) == (-8 * 4 * 3, -8)


class Passes:
    """The transformer's inputs, pass by pass."""

    def __init__(self, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.latents: list[torch.Tensor] = []
        self.timesteps: list[float] = []
        self.controls: list[list[float]] = []
        embed = model.dit._embed

        def spy(latents: torch.Tensor, timesteps: torch.Tensor, control: torch.Tensor) -> object:
            self.latents.append(latents.clone())
            self.timesteps.append(timesteps[0, 0].item())
            self.controls.append(control.flatten().tolist())
            return embed(latents, timesteps, control)

        monkeypatch.setattr(model.dit, "_embed", spy)


def test_each_chunk_is_denoised_from_its_own_noise_and_then_written_clean(
    model: LoadedModel, stream: Callable[..., VideoStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(model, monkeypatch)
    session = stream()
    chunks = [session.next_chunk(), session.next_chunk()]
    steps = len(SPEC.timesteps) + 1
    assert passes.timesteps == pytest.approx([*SPEC.timesteps, 0.0] * 2)
    assert torch.equal(passes.latents[steps - 1], chunks[0].latents)
    assert torch.equal(passes.latents[-1], chunks[1].latents)
    assert (passes.latents[0] - passes.latents[steps]).std() > 1, "two chunks began with the same noise"


def test_the_camera_reaches_the_model_as_world_positions_and_speed(
    model: LoadedModel, stream: Callable[..., VideoStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(model, monkeypatch)
    session = stream()
    session.set_camera(CameraControl(cut_to=-2.0, speed=12))
    session.next_chunk()
    speeds, offsets = [8, 12, 12], [-256, -256 + 32, -256 + 32 + 48]  # 128 pixels a screen, 4 pictures a latent frame
    assert passes.controls[0] == pytest.approx([speed / MAX_SPEED for speed in speeds])
    first_columns = session.cache.retained_positions()[0][:: SPEC.tokens_per_latent, 2]
    views = [offset + 4 * speed for offset, speed in zip(offsets, speeds, strict=True)]
    assert first_columns.tolist() == pytest.approx([view / SPEC.pixels_per_column for view in views])


def test_pictures_join_over_chunks_as_if_decoded_at_once(
    model: LoadedModel, stream: Callable[..., VideoStream]
) -> None:
    session = stream()
    chunks = [session.next_chunk() for _ in range(3)]
    with torch.inference_mode():
        pictures, _ = model.vae.decode(torch.cat([chunk.latents for chunk in chunks], dim=1))
    assert np.array_equal(np.concatenate([chunk.pictures for chunk in chunks]), to_pictures(pictures)[0].numpy())


def test_a_restored_stream_goes_on_bit_for_bit(model: LoadedModel, stream: Callable[..., VideoStream]) -> None:
    session = stream(policy="random")
    eventful(session)
    resumed = VideoStream.restore(model, session.snapshot())
    assert (resumed.prompt, resumed.camera) == (session.prompt, session.camera)
    for _ in range(2):
        assert same(session.next_chunk(), resumed.next_chunk())


def test_a_stream_that_has_not_begun_can_be_restored(model: LoadedModel, stream: Callable[..., VideoStream]) -> None:
    assert same(VideoStream.restore(model, stream().snapshot()).next_chunk(), stream().next_chunk())


def test_a_snapshot_of_other_weights_is_refused(stream: Callable[..., VideoStream]) -> None:
    snapshot = stream().snapshot()
    with pytest.raises(StreamError, match="digest 'random-0', this model needs 'random-9'"):
        VideoStream.restore(random_model(SPEC, seed=9), snapshot)
    with pytest.raises(StreamError, match="cannot be read"):
        VideoStream.restore(random_model(SPEC, seed=9), snapshot[:50])


def test_a_snapshot_in_another_dtype_is_refused(stream: Callable[..., VideoStream]) -> None:
    session = stream()
    session.next_chunk()
    with pytest.raises(CacheError, match=r"'keys' is torch.float32 .* needs torch.bfloat16"):
        VideoStream.restore(random_model(SPEC, seed=0, dtype=torch.bfloat16), session.snapshot())


def test_a_chunk_that_failed_can_be_made_again(
    stream: Callable[..., VideoStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, undisturbed = stream(), stream()
    undisturbed.next_chunk()
    session.next_chunk()
    session.set_camera(CameraControl(speed=8))
    undisturbed.set_camera(CameraControl(speed=8))
    noise = session._noise(torch.Generator())
    with monkeypatch.context() as broken:
        broken.setattr(session, "_noise", lambda generator: torch.full_like(noise, torch.nan))
        with pytest.raises(NotFiniteError, match="chunk 1 of model 'test-tiny' has latents that are not finite"):
            session.next_chunk()
    assert same(session.next_chunk(), undisturbed.next_chunk())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pictures_that_are_not_finite_are_no_pictures(
    model: LoadedModel, stream: Callable[..., VideoStream], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    session = stream()
    decode = model.vae.decode

    def one_wrong(*given: object) -> tuple[torch.Tensor, list[torch.Tensor]]:
        pictures, state = decode(*given)
        pictures[..., -1, -1] = value
        return pictures, state

    with monkeypatch.context() as broken:
        broken.setattr(model.vae, "decode", one_wrong)
        with pytest.raises(NotFiniteError, match="chunk 0 of model 'test-tiny' has pictures that are not finite"):
            session.next_chunk()


@pytest.mark.parametrize("policy", ["attention", "redundancy", "salience", "pafu"])
def test_scored_policies_stream_within_their_budget_and_resume(
    model: LoadedModel, stream: Callable[..., VideoStream], policy: str
) -> None:
    session = stream(policy=policy)
    chunks = eventful(session)
    assert all(chunk.stats.cache_policy == policy and not chunk.stats.cache_fell_back for chunk in chunks)
    assert chunks[-1].stats.cache_tokens == 4 * SPEC.tokens_per_latent
    resumed = VideoStream.restore(model, session.snapshot())
    assert same(session.next_chunk(), resumed.next_chunk())


def test_each_scored_policy_keeps_other_tokens(stream: Callable[..., VideoStream]) -> None:
    kept = {}
    for policy in ("sink_window", "attention", "redundancy", "salience", "pafu"):
        session = stream(policy=policy)
        eventful(session)
        kept[policy] = tuple(session.cache.retained_numbers()[0].tolist())
    assert len(set(kept.values())) == len(kept), kept


def test_attention_is_what_the_clean_pass_looked_at(model: LoadedModel, stream: Callable[..., VideoStream]) -> None:
    """Every clean query distributes an attention of 1, and nothing was evicted yet."""
    session = stream(policy="attention", budget_latents=12)
    for chunks in (1, 2, 3):
        session.next_chunk()
        totals = torch.stack([scores.sum() for scores in session.cache.retained_scores()])
        assert torch.allclose(totals, torch.full_like(totals, chunks), atol=1e-4)


def test_salience_is_the_heads_score_of_what_the_cache_holds(
    model: LoadedModel, stream: Callable[..., VideoStream]
) -> None:
    session = stream(policy="salience", budget_latents=12)
    session.next_chunk()
    session.next_chunk()
    state = session.cache.snapshot()
    keys = rope.unrotate_place(state["keys"], state["positions"], SPEC.rope_split, SPEC.rope_theta)
    expected = model.salience(keys, state["values"])
    assert torch.allclose(state["scores"], expected, atol=1e-6) and float(expected.std()) > 0.01


def test_a_policy_that_asks_for_nothing_pays_nothing(
    stream: Callable[..., VideoStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*_: object) -> None:
        raise AssertionError("somebody watched")

    for work in ("attention.received_attention", "salience.SalienceHead.score"):
        monkeypatch.setattr(f"model.transformer.{work}", called)
    monkeypatch.setattr("cache.policy.nearest_copies", called)
    eventful(stream())
    for policy in ("attention", "redundancy", "salience"):
        with pytest.raises(AssertionError, match="somebody watched"):
            eventful(stream(policy=policy))


def test_a_learned_policy_without_a_head_says_how_to_get_one(model: LoadedModel) -> None:
    headless = dataclasses.replace(model, salience=None)
    with pytest.raises(StreamError, match="'pafu' needs a head for salience, .* `pafu distill salience`"):
        VideoStream(headless, "", 0, dataclasses.replace(CONFIG, policy="pafu"))
    with pytest.raises(StreamError, match="'oracle' knows the future"):
        VideoStream(model, "", 0, dataclasses.replace(CONFIG, policy="oracle"))


def test_a_head_that_says_nan_costs_the_session_its_policy_and_nothing_else(
    model: LoadedModel, stream: Callable[..., VideoStream]
) -> None:
    head = SalienceHead(SPEC)
    torch.nn.init.constant_(head.bias2, torch.nan)
    broken = VideoStream(
        dataclasses.replace(model, salience=head), "a red house", 5, dataclasses.replace(CONFIG, policy="pafu")
    )
    chunks, expected = eventful(broken), eventful(stream())
    assert all(map(same, chunks, expected)), "it is not what sink_window would have shown"
    assert [(chunk.stats.cache_policy, chunk.stats.cache_fell_back) for chunk in chunks] == [("sink_window", True)] * 5


@pytest.mark.parametrize(
    ("policy", "host"),
    [("sink_window", 0), ("pafu", 0), ("merging", 0), ("pyramid", 0), ("retrieval", 4), ("salient_retrieval", 4)],
)
def test_a_stream_recalled_from_all_its_chunks_or_restored_goes_on_bit_for_bit(
    stream: Callable[..., VideoStream], model: LoadedModel, policy: str, host: float
) -> None:
    session, other = (stream(policy=policy, host_latents=host) for _ in range(2))
    chunks = eventful(session)
    other.set_prompt(session.prompt)
    other.recall([chunk.past for chunk in chunks], len(chunks), session.camera)
    assert other.camera == session.camera and other.prompt == session.prompt
    restored = VideoStream.restore(model, session.snapshot())
    following = session.next_chunk()
    assert same(following, other.next_chunk()) and same(following, restored.next_chunk())


def test_chunks_of_which_only_host_memory_holds_tokens_count_as_remembered(stream: Callable[..., VideoStream]) -> None:
    """So that the front keeps their latents, from which another worker fills its host memory."""
    session = stream(policy="retrieval", host_latents=7)
    chunks = eventful(session)
    assert chunks[-1].remembered == (0, 1, 2, 3, 4), "sink and recent frames on the device, seven frames on the host"
    assert chunks[-1].stats.cache_host_bytes == session.cache.host_nbytes > 0


def test_the_remembered_chunks_suffice_to_recall_the_cache_and_the_others_are_named(
    stream: Callable[..., VideoStream],
) -> None:
    session, other = stream(), stream()
    chunks = eventful(session)
    assert chunks[-1].remembered == (0, 4), "one latent frame of sink, the newest chunk"
    other.recall([chunks[0].past, chunks[4].past], 5, session.camera)
    other.cache.check_integrity()
    ours, theirs = session.cache.retained_positions(), other.cache.retained_positions()
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))
    resumed = other.next_chunk()
    assert resumed.index == 5 and resumed.camera == session.next_chunk().camera


def test_a_past_that_does_not_fit_is_refused(stream: Callable[..., VideoStream]) -> None:
    past = [chunk.past for chunk in eventful(stream())]
    with pytest.raises(StreamError, match="past chunk 1 is out of order: allowed is 3 to 4"):
        stream().recall([past[2], past[1]], 5, CameraState())
    with pytest.raises(StreamError, match="past chunk 4 is out of order"):
        stream().recall(past, 4, CameraState())
    with pytest.raises(StreamError, match="has latents"):
        stream().recall([dataclasses.replace(past[0], latents=torch.zeros(1, 3))], 1, CameraState())


def test_a_chunk_can_be_given_up_before_any_pass(stream: Callable[..., VideoStream]) -> None:
    session, undisturbed = stream(), stream()
    for passes in range(len(SPEC.denoising_steps) + 1):
        left = passes

        def stop() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            session.next_chunk(stop)
    assert same(session.next_chunk(), undisturbed.next_chunk())


def test_a_full_cache_ends_the_stream_with_its_own_error(stream: Callable[..., VideoStream]) -> None:
    session = stream(policy="full")
    session.next_chunk()
    with pytest.raises(CacheFull, match="do not fit its budget"):
        session.next_chunk()


def test_a_model_without_a_camera_refuses_to_be_steered(model: LoadedModel) -> None:
    blind = dataclasses.replace(model, spec=dataclasses.replace(SPEC, camera=None, control_dim=0))
    with pytest.raises(StreamError, match="has no camera"):
        VideoStream(blind, "", 0, CONFIG).set_camera(CameraControl(speed=4))
