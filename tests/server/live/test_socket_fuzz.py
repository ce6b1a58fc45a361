"""Promise: anything sent over the live socket gets a documented answer, leaves nothing behind, and disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from server.http.slow_headers import TimeoutProtocol

_SPEC = importlib.util.spec_from_file_location("socket_fuzz", Path(__file__).parents[1] / "socket_fuzz.py")
assert _SPEC is not None and _SPEC.loader is not None
socket_fuzz = importlib.util.module_from_spec(_SPEC)
sys.modules["socket_fuzz"] = socket_fuzz
_SPEC.loader.exec_module(socket_fuzz)

ROUNDS = int(os.environ.get("PAFU_TEST_FUZZ_ROUNDS", "3"))  # of all attacks


def open_files() -> int:
    """Sockets and files of this process, except those of the job database, which opens on first use."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("jobs.sqlite" not in link for link in links)


async def test_no_attack_fails_the_server_or_leaves_anything_behind(serve, caplog) -> None:
    server = await serve(max_sessions=32, keep_on_device=0, keep_on_disk=0)  # what is kept on purpose is no leak
    await server.works()
    tasks, files = len(asyncio.all_tasks()), open_files()
    for seed in range(ROUNDS):
        await asyncio.gather(*(socket_fuzz.attack(server.port, which, seed) for which in socket_fuzz.ATTACKS))
    await server.works()
    assert server.engine.status().workers[0].restarts == 0
    failures = [record.message for record in caplog.records if record.exc_info]
    assert set(failures) <= {"Invalid UTF-8 sequence received from client."}  # uvicorn's way to close with 1007
    async with asyncio.timeout(120):
        while len(asyncio.all_tasks()) > tasks or open_files() > files:
            await asyncio.sleep(0.05)


async def test_the_fuzzer_sees_a_server_that_fails(serve, monkeypatch) -> None:
    server = await serve()
    monkeypatch.setattr("server.live.client_messages.parse", lambda text: 1 / 0)
    with pytest.raises(socket_fuzz.Finding, match="internal_error"):
        await socket_fuzz.attack(server.port, socket_fuzz.one_byte_at_a_time, 1)


@pytest.mark.parametrize("sent", [b"", b"GET /v1/realtime/video HTTP/1.1\r\nHost: local"])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(server, monkeypatch, sent) -> None:
    monkeypatch.setattr(TimeoutProtocol, "head_seconds", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    async with asyncio.timeout(120):
        assert await reader.read() == b""
    writer.close()


async def test_a_flood_is_read_slowly_and_others_are_served(serve) -> None:
    server = await serve(messages_per_second=2)
    raw = await socket_fuzz.Raw.open(server.port)
    assert await raw.accepted()
    await raw.send(socket_fuzz.text({"type": "session.ping"}) * 100)  # takes longer than any test
    answered = asyncio.create_task(raw.listen(100))
    viewer = await server.watch(num_frames=13, seed=5)
    assert viewer.pictures().shape[0] == 13 and not answered.done()
    answered.cancel()
    raw.cut()
