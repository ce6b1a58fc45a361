"""Promise: the sync client behaves like the async one, in a thread without an event loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
import threading
from types import FrameType
from typing import Any

import pytest
from pafu_client import PafuError, sync
from pafu_client.sync import connect


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pafu-client"]


async def test_a_whole_stream_without_asyncio(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        event_id = (await peer.hear("session.interaction"))["interaction"]["event_id"]
        await peer.say("session.interaction.applied", event_id=event_id, chunk_index=1)
        await peer.chunk(b"1", started_event_ids=[event_id])
        await peer.hear("session.stop")
        await peer.done("stopped")

    def watch(url: str) -> list[bytes]:
        seen = []
        with connect(url, prompt="x", seed=3) as stream:
            assert stream.init.config["seed"] == 3
            for chunk in stream:
                seen.append(chunk.data)
                if len(seen) == 1:
                    stream.interact(prompt="y")
                else:
                    stream.playback(0.5)
                    stream.stop()
            assert stream.done is not None and stream.done.reason == "stopped"
            assert [event.event_id for event in stream.events] == ["evt_1"]
        return seen

    assert await asyncio.to_thread(watch, await serve_script(script)) == [b"0", b"1"]
    assert client_threads() == [], "the loop's thread ends with the block"


async def test_errors_come_through_and_leave_no_thread(serve_script: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.hear("session.start")
        await peer.say("error", code="not_ready", message="warming up", retryable=True)
        await peer.socket.close(1013)

    def watch(url: str) -> None:
        with connect(url, prompt="x"):
            pass

    with pytest.raises(PafuError) as caught:
        await asyncio.to_thread(watch, await serve_script(script))
    assert caught.value.code == "not_ready" and caught.value.retryable
    assert client_threads() == []


async def test_an_error_in_the_block_closes_the_stream_and_is_not_swallowed(serve_script: Any) -> None:
    gone = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        await peer.socket.wait_closed()
        gone.set()

    def watch(url: str) -> None:
        with connect(url, prompt="x") as stream:
            next(stream)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(watch, await serve_script(script))
    async with asyncio.timeout(60):
        await gone.wait()


def interrupting(step: int) -> Any:
    """A trace function that raises KeyboardInterrupt before instruction ``step`` of the sync client."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != sync.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.filterwarnings("error")
async def test_an_interrupt_at_any_instruction_leaves_nothing_behind(serve_script: Any, caplog: Any) -> None:
    async def script(peer: Any) -> None:
        await peer.begin()
        await peer.chunk(b"0")
        await peer.chunk(b"1")
        await peer.socket.wait_closed()

    def interrupted(url: str, step: int) -> bool:
        with connect(url, prompt="x") as stream:
            next(stream)
            sys.settrace(interrupting(step))
            try:
                stream.receive()
            except KeyboardInterrupt:
                return True
            finally:
                sys.settrace(None)
        return False

    def steps(url: str) -> int:
        return next(step for step in itertools.count() if not interrupted(url, step))

    assert await asyncio.to_thread(steps, await serve_script(script)) > 10
    gc.collect()
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert client_threads() == [] and warned == []
