"""Promise: the asyncio client follows the protocol, reports events, and ends normally or with a PafuError."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pafu_client import (
    ConnectionLost,
    InteractionApplied,
    InteractionFailed,
    InteractionQueued,
    PafuError,
    SessionDone,
    connect,
)


async def test_start_carries_the_options_that_were_given_and_no_others(serve_script: Any) -> None:
    heard: list[dict[str, Any]] = []

    async def script(peer: Any) -> None:
        heard.append(await peer.begin())
        await peer.done()

    url = await serve_script(script)
    async with connect(url, prompt="a red house", seed=7, num_frames=24) as stream:
        assert [chunk async for chunk in stream] == []
        assert stream.init.session_id == "sess_1"
        assert stream.init.config["seed"] == 7
    assert heard == [{"type": "session.start", "format": "m4s", "prompt": "a red house", "seed": 7, "num_frames": 24}]


async def test_chunks_come_in_order_with_their_metadata_and_bytes(serve_script: Any) -> None:
    sent = [b"first", b"second", b"third"]

    async def script(peer: Any) -> None:
        await peer.begin()
        for data in sent:
            await peer.chunk(data)
        await peer.done()

    async with connect(await serve_script(script), prompt="x") as stream:
        chunks = [chunk async for chunk in stream]
        assert [chunk.data for chunk in chunks] == sent
        assert [chunk.metadata.index for chunk in chunks] == [0, 1, 2]
        assert [chunk.metadata.stats["cache_tokens"] for chunk in chunks] == [0, 60, 120]
        assert stream.done == SessionDone(chunks=3, stopped=False, reason="complete")
        assert await stream.receive() is None, "a stream that ended stays ended"


async def test_interaction_is_sent_and_its_life_is_told(serve_script: Any) -> None:
    heard: list[dict[str, Any]] = []
    told: list[Any] = []

    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        message = await peer.hear("session.interaction")
        heard.append(message["interaction"])
        event_id = message["interaction"]["event_id"]
        await peer.say("session.interaction.queued", event_id=event_id)
        await peer.say("session.interaction.applied", event_id=event_id, chunk_index=1)
        await peer.chunk(b"1", started_event_ids=[event_id])
        await peer.done()

    async with connect(await serve_script(script), prompt="x", on_event=told.append) as stream:
        await stream.receive()
        event_id = await stream.interact(prompt="night", camera={"speed": -8})
        chunk = await stream.receive()
        assert chunk is not None and chunk.metadata.started_event_ids == (event_id,)
        assert await stream.receive() is None
    event = {"prompt": "night", "multi_modal_data": {"camera": {"speed": -8}}}
    assert heard == [{"event_id": event_id, "event": event}]
    assert told == [InteractionQueued(event_id), InteractionApplied(event_id, 1)]
    assert list(stream.events) == told


async def test_event_ids_of_one_stream_differ(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.hear("session.stop")
        await peer.done("stopped")

    async with connect(await serve_script(script), prompt="x") as stream:
        ids = [await stream.interact(camera={"pan": "left"}) for _ in range(5)]
        await stream.stop()
        assert await stream.receive() is None
        assert stream.done is not None and stream.done.stopped
    assert len(set(ids)) == 5


async def test_refused_start_raises_the_servers_error(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.hear("session.start")
        await peer.say("error", code="unknown_model", message="no such model", param="model", retryable=False)
        await peer.socket.close(1008)

    with pytest.raises(PafuError) as caught:
        async with connect(await serve_script(script), prompt="x", model="nope"):
            pass
    assert (caught.value.code, caught.value.message, caught.value.param) == ("unknown_model", "no such model", "model")
    assert not caught.value.retryable


async def test_error_then_close_ends_the_stream_with_that_error_after_the_chunks_that_came(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        await peer.say("error", code="worker_failed", message="the worker died", param=None, retryable=True)
        await peer.socket.close(1012)

    seen = []
    with pytest.raises(PafuError) as caught:
        async with connect(await serve_script(script), prompt="x") as stream:
            async for chunk in stream:
                seen.append(chunk.data)
    assert seen == [b"0"]
    assert caught.value.code == "worker_failed" and caught.value.retryable


async def test_refused_interaction_leaves_the_stream_running(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.say("error", code="interaction_failed", message="no", param="interaction.event", event_id="e")
        await peer.chunk(b"0")
        await peer.done()

    async with connect(await serve_script(script), prompt="x") as stream:
        assert [chunk.data async for chunk in stream] == [b"0"]
        (event,) = stream.events
    assert isinstance(event, InteractionFailed) and event.event_id == "e" and event.error.code == "interaction_failed"


async def test_an_old_refusal_is_not_blamed_for_a_later_disconnect(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.say("error", code="interaction_failed", message="no")
        await peer.chunk(b"0")
        peer.socket.transport.abort()

    with pytest.raises(ConnectionLost) as caught:
        async with connect(await serve_script(script), prompt="x") as stream:
            [chunk async for chunk in stream]
    assert caught.value.code == "connection_lost"


@pytest.mark.parametrize(
    ("close_code", "code"), [(1000, "connection_lost"), (1001, "shutting_down"), (1012, "server_restart")]
)
async def test_close_without_done_is_a_lost_connection(serve_script: Any, close_code: int, code: str) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.socket.close(close_code, "because")

    with pytest.raises(ConnectionLost) as caught:
        async with connect(await serve_script(script), prompt="x") as stream:
            await stream.receive()
    assert (caught.value.code, caught.value.close_code, caught.value.message) == (code, close_code, "because")
    assert caught.value.retryable


async def test_close_before_video_start_is_a_lost_connection(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.hear("session.start")
        await peer.socket.close(1013, "full")

    with pytest.raises(ConnectionLost, match="full") as caught:
        async with connect(await serve_script(script), prompt="x"):
            pass
    assert caught.value.code == "server_busy"


async def test_sending_on_a_lost_connection_raises_and_after_the_end_is_harmless(serve_script: Any) -> None:
    async def lost(peer: Any) -> None:
        await peer.begin()
        peer.socket.transport.abort()

    async def ended(peer: Any) -> None:
        await peer.begin()
        await peer.done()

    async with connect(await serve_script(lost), prompt="x", realtime=None) as stream:
        with pytest.raises(ConnectionLost):
            await stream.receive()
        with pytest.raises(ConnectionLost):
            await stream.interact(prompt="y")
    async with connect(await serve_script(ended), prompt="x") as stream:
        assert await stream.receive() is None
        await stream.interact(prompt="y")
        await stream.stop()


async def bytes_without_metadata(peer: Any) -> None:
    await peer.socket.send(b"stray")


async def bytes_of_another_length(peer: Any) -> None:
    await peer.chunk(b"1234", byte_length=5)


async def metadata_without_index(peer: Any) -> None:
    await peer.say("video.chunk_metadata", byte_length=1)


async def broken_json(peer: Any) -> None:
    await peer.socket.send("{")


@pytest.mark.parametrize(
    "nonsense", [bytes_without_metadata, bytes_of_another_length, metadata_without_index, broken_json]
)
async def test_nonsense_from_the_server_ends_the_stream_with_an_error(serve_script: Any, nonsense: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await nonsense(peer)
        await peer.socket.wait_closed()

    with pytest.raises(PafuError) as caught:
        async with connect(await serve_script(script), prompt="x") as stream:
            await stream.receive()
    assert caught.value.code == "bad_message"


async def test_unknown_messages_are_ignored(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.say("session.weather", wind="north")
        await peer.chunk(b"0")
        await peer.done()

    async with connect(await serve_script(script), prompt="x") as stream:
        assert [chunk.data async for chunk in stream] == [b"0"]


async def test_an_error_in_the_callers_callback_reaches_the_caller(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.say("session.interaction.queued", event_id="e")
        await peer.socket.wait_closed()

    def fail(_: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        async with connect(await serve_script(script), prompt="x", on_event=fail) as stream:
            await stream.receive()


async def test_fast_reader_reports_all_it_took_and_never_more(serve_script: Any) -> None:
    """The server sends a chunk only after the previous one was reported as played."""
    reported: list[float] = []

    async def script(peer: Any) -> None:
        await peer.begin()
        for index in range(4):
            await peer.chunk(b"x")
            while not reported or reported[-1] < (index + 1) * 0.75:
                reported.append((await peer.hear("session.playback"))["position_seconds"])
                assert reported[-1] <= (index + 1) * 0.75
        await peer.done()

    async with connect(await serve_script(script), prompt="x", realtime=False) as stream:
        assert len([chunk async for chunk in stream]) == 4
    assert sorted(reported) == reported


async def test_manual_reader_reports_only_what_it_is_told_to(serve_script: Any) -> None:
    heard: list[dict[str, Any]] = []

    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        await peer.hear("session.stop")
        heard.extend(peer.heard)
        await peer.done("stopped")

    async with connect(await serve_script(script), prompt="x", realtime=None) as stream:
        await stream.receive()
        await stream.playback(0.25)
        await stream.stop()
        assert await stream.receive() is None
    assert [m.get("position_seconds") for m in heard if m["type"] == "session.playback"] == [0.25]


async def test_leaving_the_block_closes_the_connection(serve_script: Any) -> None:
    gone = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        await peer.socket.wait_closed()
        gone.set()

    async with connect(await serve_script(script), prompt="x") as stream:
        await stream.receive()
    async with asyncio.timeout(60):
        await gone.wait()
