"""Promise: parsing any text gives a message, or an error that names the field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.camera import DEFAULT_SPEED
from model.spec import PAFU_MINI, PAFU_MINI_2, TEST_TINY, WAN_1_3B
from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import CacheChoice
from server.live import client_messages as protocol

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    [
        "type",
        "prompt",
        "model",
        "width",
        "seed",
        "num_frames",
        "interaction",
        "event",
        "position_seconds",
        "extra_params",
    ]
)
TYPES = st.sampled_from([*protocol.CLIENT_MESSAGES, "video.start", ""])


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_a_message_or_a_named_error(text) -> None:
    try:
        protocol.parse(text)
    except PafuError as error:
        assert error.message


@given(TYPES, st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_fields_are_a_message_or_a_named_error(kind, fields) -> None:
    try:
        message = protocol.parse(json.dumps({**fields, "type": kind}))
    except PafuError as error:
        assert error.message
    else:
        assert message.type == kind
        if isinstance(message, protocol.SessionStart):
            try:
                protocol.check_start(message, TEST_TINY, Settings())
            except PafuError as error:
                assert error.message


def start(**fields) -> protocol.SessionStart:
    message = protocol.parse(json.dumps({"type": "session.start", "prompt": "x", **fields}))
    assert isinstance(message, protocol.SessionStart)
    return message


def test_a_vllm_omni_start_is_understood_with_all_its_fields() -> None:
    message = start(
        model="test-tiny",
        format="m4s",
        width=128,
        height=128,
        fps=16,
        num_frames=48,
        seed=7,
        extra_params={},
        image_reference=None,
        streaming_buffer_seconds=1.25,
    )
    order = protocol.check_start(message, TEST_TINY, Settings())
    assert (order.seed, order.pictures, order.lead_seconds) == (7, 48, 1.25)


def test_what_is_left_out_is_the_servers_choice() -> None:
    settings = Settings(lead_seconds=2.0, max_seconds=10.0, cache_budget_latents=9.0)
    order = protocol.check_start(start(), TEST_TINY, settings)
    assert (order.lead_seconds, order.pictures, order.cache.budget_latents) == (2.0, 160, 9.0)


def test_another_policy_does_not_inherit_the_default_policys_sink() -> None:
    order = protocol.check_start(start(extra_params={"cache": {"policy": "window"}}), TEST_TINY, Settings())
    assert (order.cache.policy, order.cache.sink_latents) == ("window", 0)


def test_a_budget_may_be_told_in_tokens() -> None:
    wish = {"policy": "window", "budget_tokens": 100}
    order = protocol.check_start(start(extra_params={"cache": wish}), TEST_TINY, Settings())
    assert order.cache.budget_latents * TEST_TINY.tokens_per_latent == 100
    for more, param in (({"budget_latents": 6.0}, "budget_tokens"), ({"budget_tokens": 2**20}, "budget_tokens")):
        with pytest.raises(PafuError) as refused:
            protocol.check_start(start(extra_params={"cache": {**wish, **more}}), TEST_TINY, Settings())
        assert refused.value.param == f"extra_params.cache.{param}"
    with pytest.raises(PafuError, match="cannot hold"):
        short = {**wish, "budget_tokens": 16, "recent_latents": 3}
        protocol.check_start(start(extra_params={"cache": short}), TEST_TINY, Settings())


@pytest.mark.parametrize(
    "wish",
    [
        {"budget_latents": 0},
        {"budget_latents": -1},
        {"budget_latents": 0.001},
        {"budget_latents": 21},
        {"budget_tokens": 0},
        {"budget_tokens": -1},
        {"budget_tokens": 321},
    ],
)
def test_a_budget_out_of_range_is_told_with_the_whole_range(wish) -> None:
    settings = Settings(model="test-tiny", cache_max_latents=20)
    with pytest.raises(PafuError, match=r"choose 0.0625 \(one token\) to 20 latent frames") as refused:
        protocol.check_start(start(extra_params={"cache": wish}), TEST_TINY, settings)
    assert refused.value.param == f"extra_params.cache.{next(iter(wish))}"


def test_the_smallest_budget_is_one_token() -> None:
    for wish in ({"budget_latents": 0.0625}, {"budget_tokens": 1}):
        order = protocol.check_start(start(extra_params={"cache": wish}), TEST_TINY, Settings(model="test-tiny"))
        assert order.cache.config.budget_tokens(TEST_TINY.tokens_per_latent) == 1


def test_numbers_of_any_length_are_refused_by_name() -> None:
    for name in ("budget_latents", "budget_tokens"):
        for value in (10**400, -(10**400)):
            with pytest.raises(PafuError) as refused:
                protocol.check_start(start(extra_params={"cache": {name: value}}), TEST_TINY, Settings())
            assert refused.value.param == f"extra_params.cache.{name}"


def test_what_a_cache_protects_fits_the_budget_that_was_asked_for() -> None:
    small = protocol.check_start(
        start(extra_params={"cache": {"budget_latents": 2}}), TEST_TINY, Settings(model="test-tiny")
    ).cache
    assert (small.policy, small.sink_latents, small.recent_latents) == ("sink_window", 1, 0.5), "sinks are whole frames"
    usual = protocol.check_start(start(), TEST_TINY, Settings(model="test-tiny")).cache
    assert (usual.budget_latents, usual.sink_latents, usual.recent_latents) == (18, 3, 3), "a chunk each"


def test_a_model_brings_the_policy_that_it_was_tuned_with() -> None:
    mini = start(model="pafu-mini")
    ours = protocol.check_start(mini, PAFU_MINI, Settings()).cache
    assert (ours.policy, ours.budget_latents, ours.sink_latents) == ("salient_retrieval", 6, 2)
    settings = Settings(cache_policy="window", cache_budget_latents=9)
    assert protocol.check_start(mini, PAFU_MINI, settings).cache.policy == "window"
    with pytest.raises(PafuError, match="for evaluations only"):
        wish = {"cache": {"policy": "oracle"}}
        protocol.check_start(start(model="pafu-mini", extra_params=wish), PAFU_MINI, Settings())


def test_a_video_that_policy_full_cannot_hold_is_refused_before_it_begins() -> None:
    full = {"policy": "full", "budget_latents": 9}
    settings = Settings(model="test-tiny", cache_max_latents=20)
    for pictures in (36, None):  # three chunks; without end
        order = protocol.check_start(start(num_frames=pictures, extra_params={"cache": full}), TEST_TINY, settings)
        assert order.cache.policy == "full"
    told = "37 pictures needs 12 latent frames, the budget is 9; raise it \\(up to 20\\)"
    with pytest.raises(PafuError, match=told) as refused:
        protocol.check_start(start(num_frames=37, extra_params={"cache": full}), TEST_TINY, settings)
    assert not refused.value.kind.retryable
    with pytest.raises(PafuError, match="needs 3 latent frames, the budget is 2"):
        wish = {"cache": {**full, "budget_latents": 2}}
        protocol.check_start(start(extra_params=wish), TEST_TINY, settings)


def event(**fields) -> protocol.Interaction:
    message = protocol.parse(json.dumps({"type": "session.interaction", "interaction": {"event": fields}}))
    assert isinstance(message, protocol.SessionInteraction)
    return message.interaction


def test_pans_become_speeds() -> None:
    for pan, speed in (("left", -DEFAULT_SPEED), ("right", DEFAULT_SPEED), ("hold", 0)):
        _, camera = protocol.check_event(event(multi_modal_data={"camera": {"pan": pan}}), TEST_TINY)
        assert camera is not None and camera.speed == speed


def test_a_model_without_a_camera_says_so() -> None:
    with pytest.raises(PafuError) as refused:
        protocol.check_event(event(multi_modal_data={"camera": {"pan": "left"}}), WAN_1_3B)
    assert refused.value.kind.code == "unsupported"


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"promt": "x"}, "did you mean 'prompt'"),
        (
            {"extra_params": {"cache": {"polcy": "window"}}},
            r"did you mean 'policy'\? known: budget_latents, budget_tokens, kv_dtype, policy, position_mode",
        ),
        ({"extra_params": {"cache": {"budget": 3}}}, "known: budget_latents, budget_tokens, kv_dtype, policy"),
        ({"extra_params": {"cache": []}}, "cache must be an object with fields of policy, budget_latents, budget_tok"),
        ({"extra_params": "pafu"}, "extra_params must be an object with fields of cache; got 'pafu'"),
        ({"hight": 3}, "did you mean 'height'"),
    ],
)
def test_a_misspelt_field_is_told_with_the_right_spelling(fields, hint) -> None:
    with pytest.raises(PafuError, match=hint):
        start(**fields)


def test_error_kinds_have_the_close_codes_that_tell_a_client_what_to_do() -> None:
    from server.errors import ERRORS

    assert all(kind.close in (1003, 1008, 1009, 1011, 1012, 1013) for kind in ERRORS.values())
    again = {kind.code for kind in ERRORS.values() if kind.close in (1012, 1013)}
    assert again >= {"session_rejected", "not_ready", "shutting_down", "preempted", "worker_failed"}
    assert all(ERRORS[code].retryable for code in again), "told to come back, a client may do so"
    assert again.isdisjoint({"invalid_prompt", "invalid_key", "wrong_token", "unknown_session"}), "in vain"


def cache_of(model: str, **cache: object) -> CacheChoice:
    settings = Settings(model=model)
    started = protocol.SessionStart.model_validate(
        {"type": "session.start", "prompt": "a cat", "extra_params": {"cache": cache}}
    )
    return protocol.check_start(started, settings.spec, settings).cache


def test_a_window_in_the_references_terms_counts_the_open_chunk() -> None:
    assert cache_of("self-forcing", window_latents=21) == cache_of("self-forcing", budget_latents=18)
    assert cache_of("longlive") == cache_of("longlive", window_latents=12, sink_latents=3)
    with pytest.raises(PafuError, match="a window of 3 latent frames has no room for a past.*choose more than 3"):
        cache_of("self-forcing", window_latents=3)
    with pytest.raises(PafuError, match="give only one of budget_latents and window_latents"):
        cache_of("self-forcing", window_latents=9, budget_latents=6)


def test_positions_are_the_checkpoints_own_unless_a_session_chooses() -> None:
    assert cache_of("longlive").config.position_mode == "absolute"
    assert cache_of("self-forcing").config.position_mode == "relative"
    assert cache_of("longlive", position_mode="relative").config.position_mode == "relative"
    assert Settings(model="longlive", cache_position_mode="relative").cache().position_mode == "relative"


def test_a_camera_rises_where_the_model_has_learned_it_and_is_refused_elsewhere() -> None:
    up = event(multi_modal_data={"camera": {"rise": 2}})
    _, camera = protocol.check_event(up, PAFU_MINI_2)
    assert camera is not None and (camera.rise, camera.speed) == (2, None)
    with pytest.raises(PafuError, match="only pans") as refused:
        protocol.check_event(up, PAFU_MINI)
    assert str(refused.value.param).endswith("camera.rise")
