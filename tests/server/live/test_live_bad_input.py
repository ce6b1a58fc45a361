"""Promise: any bad input gets a clear error that names the field, and disturbs nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import websockets

START = {"type": "session.start", "prompt": "a bar"}

# what is sent first, the code, the field at fault, the close code
BAD_STARTS: list[tuple[Any, str, str | None, int]] = [
    ({**START, "model": "no-such-model"}, "unknown_model", "model", 1008),
    ({**START, "model": "wan2.1-1.3b"}, "unknown_model", "model", 1008),
    ({**START, "width": 640}, "unsupported", "width", 1008),
    ({**START, "height": 1}, "unsupported", "height", 1008),
    ({**START, "fps": 60}, "unsupported", "fps", 1008),
    ({**START, "format": "webm"}, "unsupported", "format", 1008),
    ({**START, "image_reference": "data:"}, "invalid_message", "image_reference", 1008),
    ({**START, "image": "https://example.org/a.png"}, "invalid_message", "image", 1008),
    ({**START, "prompt": "   "}, "invalid_message", "prompt", 1008),
    ({**START, "prompt": "x" * 2001}, "invalid_message", "prompt", 1008),
    ({**START, "prompt": 7}, "invalid_message", "prompt", 1008),
    ({"type": "session.start"}, "missing_field", "prompt", 1008),
    ({**START, "num_frames": 0}, "invalid_message", "num_frames", 1008),
    ({**START, "num_frames": 10**12}, "invalid_message", "num_frames", 1008),
    ({**START, "num_frames": "48"}, "invalid_message", "num_frames", 1008),
    ({**START, "num_frames": True}, "invalid_message", "num_frames", 1008),
    ({**START, "seed": -1}, "invalid_message", "seed", 1008),
    ({**START, "seed": 2**63}, "invalid_message", "seed", 1008),
    ({**START, "seed": 1.5}, "invalid_message", "seed", 1008),
    ({**START, "streaming_buffer_seconds": 0}, "invalid_message", "streaming_buffer_seconds", 1008),
    ({**START, "streaming_buffer_seconds": 11}, "invalid_message", "streaming_buffer_seconds", 1008),
    ({**START, "promt": "x"}, "unknown_field", "promt", 1008),
    ({**START, "extra_params": {"cash": {}}}, "unknown_field", "extra_params.cash", 1008),
    ({**START, "extra_params": {"cache": {"policy": "best"}}}, "invalid_message", "extra_params.cache", 1008),
    (
        {**START, "extra_params": {"cache": {"budget_latents": 1e6}}},
        "invalid_message",
        "extra_params.cache.budget_latents",
        1008,
    ),
    ({"type": "session.begin"}, "unknown_type", "type", 1008),
    ({"type": 5}, "unknown_type", "type", 1008),
    ({"prompt": "x"}, "missing_field", "type", 1008),
    ({"type": "session.stop"}, "invalid_message", "type", 1008),
    ([1, 2], "invalid_message", None, 1008),
    ("text:nonsense {", "invalid_json", None, 1008),
    ('text:{"type": "session.start", "prompt": "x", "seed": NaN}', "invalid_json", None, 1008),
    ('text:{"type": "session.start", "prompt": "x", "streaming_buffer_seconds": 1e999}', "invalid_message", None, 1008),
    ("text:" + "[" * 10_000, "invalid_json", None, 1008),
    ("text:" + "[" * 100_000, "message_too_large", None, 1009),
    ({**START, **{str(number): 1 for number in range(600)}}, "invalid_message", None, 1008),
    ("text:" + "1" * 5000, "invalid_json", None, 1008),
    (b"\x00\x01", "binary_message", None, 1003),
]


async def test_every_bad_start_is_refused_by_name_and_the_next_session_works(server, viewer_of) -> None:
    for message, code, param, close in BAD_STARTS:
        async with server.connect() as socket:
            await socket.send(message if isinstance(message, bytes) else as_text(message))
            viewer = viewer_of(socket)
            error = await viewer.next()
            case = f"{str(message)[:200]} -> {error}"
            assert (error["type"], error["code"]) == ("error", code), case
            assert error["message"] and (param is None or error["param"] == param), case
            assert await viewer.closed() == close, case
        await server.works()


def as_text(message: Any) -> str:
    return message.removeprefix("text:") if isinstance(message, str) else json.dumps(message)


def camera(**fields: Any) -> dict[str, Any]:
    return {"type": "session.interaction", "interaction": {"event": {"multi_modal_data": {"camera": fields}}}}


def prompt(text: Any) -> dict[str, Any]:
    return {"type": "session.interaction", "interaction": {"event": {"prompt": text}}}


CAMERA = "interaction.event.multi_modal_data.camera"
BAD_CONTROLS: list[tuple[Any, str, str | None]] = [
    (camera(speed=10_000), "invalid_message", f"{CAMERA}.speed"),
    (camera(speed=1.5), "invalid_message", f"{CAMERA}.speed"),
    (camera(pan="up"), "invalid_message", f"{CAMERA}.pan"),
    (camera(speed=3), "invalid_message", f"{CAMERA}.speed"),
    (camera(pan="left", speed=4), "invalid_message", CAMERA),
    (camera(), "invalid_message", CAMERA),
    (camera(cut_to=1e9), "invalid_message", f"{CAMERA}.cut_to"),
    (camera(zoom=2), "unknown_field", f"{CAMERA}.zoom"),
    (prompt(""), "invalid_message", "interaction.event.prompt"),
    (prompt("x" * 2001), "invalid_message", "interaction.event.prompt"),
    (prompt(None), "invalid_message", "interaction.event"),
    ({"type": "session.interaction"}, "missing_field", "interaction"),
    ({"type": "session.playback", "position_seconds": -1}, "invalid_message", "position_seconds"),
    ({"type": "session.playback", "position_seconds": "3"}, "invalid_message", "position_seconds"),
    ({"type": "session.playback", "position_seconds": True}, "invalid_message", "position_seconds"),
    ('text:{"type": "session.playback", "position_seconds": NaN}', "invalid_json", None),
    ({"type": "session.sing"}, "unknown_type", "type"),
    ("text:{", "invalid_json", None),
    (START, "invalid_message", "type"),
]


async def test_a_running_session_survives_every_bad_control_message(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(seed=1)
        for message, code, param in BAD_CONTROLS:
            await socket.send(as_text(message))
            error = await viewer.until("error")
            assert error["code"] == code and (param is None or error["param"] == param), (message, error)
        await viewer.until("video.chunk_metadata")
        await viewer.send({"type": "session.stop"})
        assert (await viewer.until("session.done"))["stopped"] is True
    await server.works()


async def test_a_session_that_sends_only_nonsense_is_closed(serve, viewer_of) -> None:
    server = await serve(max_bad_messages=3)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        for _ in range(4):
            await socket.send("nonsense")
        assert await viewer.closed() == 1008
        assert viewer.messages[-1]["code"] == "too_many_errors"
    await server.works()


async def test_binary_during_a_session_closes_it_as_unsupported(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await socket.send(b"\0")
        assert await viewer.closed() == 1003
        assert viewer.messages[-1]["code"] == "binary_message"
    await server.works()


async def test_a_control_message_over_its_limit_closes_the_session_as_too_big(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.send({"type": "session.ping", "padding": "x" * 128 * 1024})
        assert await viewer.closed() == 1009
        assert viewer.messages[-1]["code"] == "message_too_large"
    await server.works()


@pytest.mark.parametrize("size", [4 * 2**20 + 1, 64 * 2**20])
async def test_a_start_over_its_limit_is_refused_without_being_kept(server, viewer_of, size) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        try:
            await socket.send(json.dumps({**START, "prompt": "x" * size}))
        except websockets.ConnectionClosed:
            pass  # the server need not listen to the end
        assert await viewer.closed() == 1009
    await server.works()


async def test_a_start_that_never_comes_ends_the_connection(serve, viewer_of) -> None:
    server = await serve(start_timeout=0.2)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send({"type": "session.ping"})  # keeping alive is not starting
        assert (await viewer.next())["type"] == "session.pong"
        assert await viewer.closed() == 1008
        assert viewer.messages[-1]["code"] == "start_timeout"
    await server.works()


@pytest.mark.parametrize("chunks", [0, 1, 2])
async def test_a_viewer_that_vanishes_frees_its_session(server, viewer_of, chunks) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send({**START, "prompt": "sleep"})
        for _ in range(chunks):
            await viewer.until("video.chunk_metadata")
        socket.transport.abort()  # no goodbye
    await server.empties()
    await server.works()


async def test_viewers_that_vanish_at_any_moment_leave_nothing_behind(server) -> None:
    """Connections cut after 0, 10, 20 ... ms: during the handshake, before the start, while opening, in a chunk."""

    async def vanish(delay: float) -> None:
        async with server.connect() as socket:
            await socket.send(json.dumps(START))
            await asyncio.sleep(delay)
            socket.transport.abort()

    for round_ in range(10):
        await vanish(round_ / 100)
    await server.empties()
    await server.works()


async def test_half_a_handshake_disturbs_nobody(server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n")
        await server.works()


async def test_a_full_server_refuses_with_a_code_and_takes_the_next_when_there_is_room(serve, viewer_of) -> None:
    server = await serve(max_sessions=1)
    async with server.connect() as first, server.connect() as second:
        watching, refused = viewer_of(first), viewer_of(second)
        await watching.start()
        error = await refused.start()
        assert (error["code"], error["retryable"]) == ("session_rejected", True)
        assert await refused.closed() == 1013
        await watching.send({"type": "session.stop"})
        await watching.until("session.done")
    await server.works()


async def test_too_many_waiting_changes_and_repeated_ids_are_refused(serve, viewer_of) -> None:
    server = await serve(max_pending_interactions=2)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(streaming_buffer_seconds=0.1)
        await viewer.send({"type": "session.playback", "position_seconds": 0})  # paused: no further chunk
        await viewer.until("video.chunk_metadata")
        for event_id in ("a", "a", "b", "c"):
            await viewer.send(
                {"type": "session.interaction", "interaction": {"event_id": event_id, "event": {"prompt": "x"}}}
            )
        answers = [await viewer.next() for _ in range(6)]
        assert [(a["type"].rpartition(".")[2], a["event_id"], a.get("code")) for a in answers] == [
            ("queued", "a", None),
            ("rejected", "a", "event_id_conflict"),
            ("error", "a", "event_id_conflict"),
            ("queued", "b", None),
            ("rejected", "c", "too_many_interactions"),
            ("error", "c", "too_many_interactions"),
        ]
    await server.works()
