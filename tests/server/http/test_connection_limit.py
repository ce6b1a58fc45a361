"""Promise: nobody can take all connections; the limit is logged once, and a closed connection makes room."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import select
import socket
import subprocess
import sys
import time

import httpx

from server.http.lag import FrontLoop, watch_lag
from tests.conftest import ROOT
from tests.server.socket_fuzz import HANDSHAKE


async def test_an_address_has_so_many_connections_and_room_again_when_they_are_gone(serve, caplog) -> None:
    server = await serve(max_connections_per_address=3)
    caplog.set_level(logging.INFO)
    metrics = server.engine.observer.metrics
    lines = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    lines[0][1].write(HANDSHAKE.encode())  # one of them becomes a socket
    await lines[0][0].readuntil(b"\r\n\r\n")
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert metrics.read("pafu_connections_refused_total") == 5
    told = [record.getMessage() for record in caplog.records if "refusing connections" in record.getMessage()]
    assert len(told) == 1 and "127.0.0.1 has 3 of 3" in told[0] and "PAFU_MAX_CONNECTIONS_PER_ADDRESS" in told[0]
    for _, writer in lines:
        writer.transport.abort()
    async with asyncio.timeout(120):
        while metrics.read("pafu_connections"):
            await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_many_simultaneous_connections_wait_in_the_backlog_and_are_not_refused(serve) -> None:
    """With a backlog of a few, the system drops the others' first packets, and each tries again after a second."""
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200
    lines = [socket.socket() for _ in range(100)]
    for line in lines:  # the server, in the same thread, accepts none meanwhile
        line.setblocking(False)
        assert line.connect_ex(("127.0.0.1", server.port)) in (0, errno.EINPROGRESS)
    _, connected, _ = select.select([], lines, [], 0.2)
    assert len(connected) == len(lines)
    for line in lines:
        line.close()


async def test_a_trusted_proxy_holds_connections_for_others(serve) -> None:
    server = await serve(max_connections_per_address=1, trusted_proxies="127.0.0.1")
    lines = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200
    for _, writer in lines:
        writer.close()


def test_a_low_soft_limit_of_files_is_raised_at_the_start() -> None:
    code = "import resource; from server.http.connection_limit import *; raise_file_limit(); print(file_limit())"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = f"ulimit -Sn 64; exec {sys.executable} -c '{code}'"
    told = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert int(told.stdout) == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)), told.stderr


def test_what_holds_up_the_event_loop_is_measured() -> None:
    seen: list[tuple[float, float]] = []

    async def hold_up() -> None:
        watching = asyncio.create_task(watch_lag(lambda lag, busy: seen.append((lag, busy))))
        await asyncio.sleep(0.05)
        time.sleep(0.2)
        await asyncio.sleep(0.1)
        assert max(lag for lag, _ in seen) >= 0.15 and max(busy for _, busy in seen) < 0.15, "waiting is not being busy"
        for until in (time.thread_time() + 0.1, time.thread_time() + 0.3):  # turns are measured one by one
            while time.thread_time() < until:
                pass
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        watching.cancel()

    with asyncio.Runner(loop_factory=FrontLoop) as runner:
        runner.run(hold_up())
    assert 0.15 <= max(busy for _, busy in seen) < 0.25
