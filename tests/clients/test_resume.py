"""Promise: the Python client loses and repeats no chunk, however often the connection breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from pafu_client import (
    ConnectionLost,
    InteractionApplied,
    PafuError,
    Reconnecting,
    SessionPaused,
    SessionQueued,
    SessionResumed,
    connect,
    watch,
)
from pafu_client.opening import delays

from tests.cable import cable_to
from tests.server.conftest import decode_video, serve  # noqa: F401 - a fixture

WISH: Any = {"prompt": "the camera pans left", "seed": 4, "num_frames": 72}
KEEP = {"keep_on_device": 30.0, "keep_on_disk": 60.0}
PATIENCE = 300.0


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal up to the differences of a fresh encoder; a missing or repeated picture differs by 9 or more."""
    return one.shape == two.shape and np.abs(one.astype(int) - two.astype(int)).mean(axis=(1, 2, 3)).max() < 1.5


@pytest.mark.parametrize("realtime", [True, False])
async def test_a_stream_goes_on_by_itself_without_a_repeated_or_missing_picture(serve: Any, realtime: bool) -> None:  # noqa: F811
    server = await serve(**KEEP)
    undisturbed = (await server.watch(**WISH)).pictures()
    async with cable_to(server.port) as cable, asyncio.timeout(PATIENCE):
        async with connect(cable.url, **WISH, realtime=realtime) as stream:
            chunks = [await stream.receive()]
            cable.cut()
            chunks.append(await stream.receive())
            cable.bytes_left = 3000
            chunks += [chunk async for chunk in stream]
            assert stream.done is not None and stream.done.reason == "complete"
        assert cable.used == 3, "it was cut twice"
    assert [chunk.metadata.index for chunk in chunks] == [0, 1, 2, 3, 4, 5]
    film = b"".join(chunk.data for chunk in chunks)
    assert film.count(b"moov") == 1 and same(decode_video(film), undisturbed)
    assert [event.next_chunk_index for event in stream.events if isinstance(event, SessionResumed)]
    await server.empties()


async def test_changes_made_while_disconnected_are_sent_after_reconnecting(serve: Any) -> None:  # noqa: F811
    server = await serve(**KEEP)
    async with cable_to(server.port) as cable, asyncio.timeout(PATIENCE):
        async with connect(cable.url, prompt="before", realtime=False) as stream:
            await stream.receive()
            cable.plugged = False
            cable.cut()
            while not any(isinstance(event, Reconnecting) for event in stream.events):
                await asyncio.sleep(0.01)
            event_id = await stream.interact(prompt="after")
            cable.plugged = True
            async for chunk in stream:
                if chunk.metadata.stats["prompt"] == "after":
                    break
            assert any(isinstance(e, InteractionApplied) and e.event_id == event_id for e in stream.events)
            cable.plugged = False
            cable.cut()
            await asyncio.sleep(0.05)
            await stream.stop()
            cable.plugged = True
            async for _ in stream:
                pass
            assert stream.done is not None and stream.done.reason == "stopped"


async def test_a_watcher_reconnects_to_the_next_server_as_the_owner_does(serve: Any) -> None:  # noqa: F811
    """Whichever of the two reconnects first."""
    server = await serve(**KEEP)
    endless = {**WISH, "num_frames": None}
    async with cable_to(server.port) as mine, cable_to(server.port) as other, asyncio.timeout(PATIENCE):
        async with connect(mine.url, **endless) as stream, watch(other.url, stream.init.session_id) as guest:
            seen = [(await guest.receive()).metadata.index]
            mine.plugged = False
            await server.stop()
            following = await serve(**KEEP)
            mine.port = other.port = following.port
            while not any(isinstance(event, SessionResumed) for event in guest.events):
                await asyncio.sleep(0.01)
            assert all(session.owner is None for session in following.front.sessions), (
                "only the one who looks on is there"
            )
            mine.plugged = True
            before = (await stream.receive()).metadata.index
            while len(seen) < 4:
                seen.append((await guest.receive()).metadata.index)
                await stream.receive()
            assert seen == sorted(set(seen)) and seen[-1] > before
            await stream.stop()
            await guest.receive()
        assert guest.done is None or guest.done.reason == "stopped"


async def test_without_resuming_a_lost_connection_is_an_error(serve: Any) -> None:  # noqa: F811
    server = await serve(**KEEP)
    async with cable_to(server.port) as cable, asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionLost):
            async with connect(cable.url, **WISH, resume_within=0) as stream:
                await stream.receive()
                cable.cut()
                [chunk async for chunk in stream]
        assert cable.used == 1


async def test_who_cannot_come_back_in_time_or_at_all_is_told(serve: Any) -> None:  # noqa: F811
    server = await serve(keep_on_device=0.0, keep_on_disk=0.0)
    async with cable_to(server.port) as cable, asyncio.timeout(PATIENCE):
        with pytest.raises(PafuError) as caught:
            async with connect(cable.url, **WISH) as stream:
                await stream.receive()
                cable.plugged = False
                cable.cut()
                await server.empties()
                cable.plugged = True
                [chunk async for chunk in stream]
        assert caught.value.code == "unknown_session"
        with pytest.raises(ConnectionLost):
            async with connect(cable.url, **WISH, resume_within=0.5) as stream:
                await stream.receive()
                cable.plugged = False
                cable.cut()
                [chunk async for chunk in stream]


async def test_pause_stands_still_over_a_lost_connection_too(serve: Any) -> None:  # noqa: F811
    server = await serve(**KEEP)
    async with cable_to(server.port) as cable, asyncio.timeout(PATIENCE):
        async with connect(cable.url, prompt="a bar", realtime=False) as stream:
            await stream.receive()
            await stream.pause()
            await told(stream, SessionPaused, 1)
            cable.cut()
            await told(stream, SessionPaused, 2)
            (session,) = server.front.sessions
            assert session.status.value == "paused"
            await stream.resume()
            indices = []
            while len(indices) < 40:
                chunk = await stream.receive()
                indices.append(chunk.metadata.index)
            assert indices == list(range(1, 41))


async def told(stream: Any, kind: type, times: int) -> None:
    while sum(isinstance(event, kind) for event in stream.events) < times:
        await asyncio.sleep(0.01)


async def test_leaving_the_block_leaves_no_session_behind(serve: Any) -> None:  # noqa: F811
    server = await serve(**KEEP)
    async with connect(server.url, prompt="a bar") as stream:
        await stream.receive()
    await server.empties()


async def test_who_waits_for_a_place_is_told_its_position(serve: Any) -> None:  # noqa: F811
    server = await serve(**KEEP, max_sessions=1, max_waiting=1)
    heard: list[Any] = []
    async with connect(server.url, prompt="a bar") as first:
        await first.receive()

        async def second() -> int:
            async with connect(server.url, prompt="a bar", num_frames=12, on_event=heard.append) as stream:
                return len([chunk async for chunk in stream])

        waiting = asyncio.create_task(second())
        async with asyncio.timeout(PATIENCE):
            while not heard:
                await asyncio.sleep(0.01)
            assert heard[0] == SessionQueued(1, 1)
            await first.stop()
            assert await waiting == 1


@pytest.mark.parametrize("format", ["h264", "jpeg"])
async def test_other_formats_are_asked_for_by_name(serve: Any, format: str) -> None:  # noqa: F811
    server = await serve(**KEEP)
    async with connect(server.url, **{**WISH, "num_frames": 24}, format=format) as stream:
        chunks = [chunk async for chunk in stream]
    sizes = [chunk.metadata.raw["frame_sizes"] for chunk in chunks]
    assert stream.init.format == format and [len(each) for each in sizes] == [12, 12]
    assert chunks[0].data.startswith(b"\xff\xd8" if format == "jpeg" else b"\x00\x00\x00\x01")


def test_tries_become_ever_more_seldom() -> None:
    waits = [delay for delay, _ in zip(delays(), range(12), strict=False)]
    assert waits[0] == 0 and all(0.75 * 0.25 <= wait <= 1.25 * 5 for wait in waits[1:]) and waits[-1] > 3
