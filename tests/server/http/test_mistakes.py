"""Promise: every internal error is answered in the standard format with the request's id, and logged once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets

from server.http.listener import listen
from server.http.service import metrics_served
from server.telemetry import logs
from server.telemetry.metrics import Metrics

UPGRADE = b"GET /v1/realtime/video HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
GOOD = UPGRADE + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


@pytest.fixture
def logged():
    """The records of a JSON log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Json(""))
    logging.getLogger().addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().removeHandler(handler)


def is_error(body: bytes, code: str) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "code", "param"} and error["code"] == code
    return error["message"]


def broken(*_: object) -> None:
    raise LookupError("nobody foresaw this")


async def test_a_mistake_is_an_error_like_any_other_and_is_logged_once(serve, monkeypatch, logged) -> None:
    server = await serve()
    monkeypatch.setattr(server.front, "health", broken)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        reply = await client.get("/health", headers={"x-request-id": "mine-1"})
        metrics = (await client.get("/metrics")).text
    assert reply.status_code == 500 and reply.headers["x-request-id"] == "mine-1"
    assert "mine-1" in is_error(reply.content, "internal_error")
    (line,) = [line for line in logged() if "nobody foresaw this" in json.dumps(line)]
    assert line["request_id"] == "mine-1" and "Traceback" in line["error"] and "/health" in line["message"]
    assert 'pafu_errors_total{code="internal_error"' in metrics and 'status="500"' in metrics


@pytest.mark.parametrize("accepts", [False, True])
async def test_a_mistake_at_a_socket_is_told_to_it(serve, monkeypatch, logged, accepts) -> None:
    server = await serve()

    async def live(websocket) -> None:
        if accepts:
            await websocket.accept()
        broken()

    monkeypatch.setattr(server.front, "live", live)
    ask = websockets.connect(
        f"ws://127.0.0.1:{server.port}/v1/realtime/video", proxy=None, additional_headers={"x-request-id": "mine-2"}
    )
    if accepts:
        async with ask as socket:
            assert socket.response.headers["x-request-id"] == "mine-2"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await ask
        assert refused.value.response.headers["x-request-id"] == "mine-2"
        assert "mine-2" in is_error(refused.value.response.body, "internal_error")
    (line,) = [line for line in logged() if "nobody foresaw this" in json.dumps(line)]
    assert line["request_id"] == "mine-2"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_message"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_message"),
        (UPGRADE + b"\r\n", 400, "invalid_message"),
        (UPGRADE + b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 7\r\n\r\n", 400, "invalid_message"),
        (GOOD + b"Content-Length: 5\r\n\r\n12345", 400, "invalid_message"),
        (GOOD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "invalid_message"),
        (GOOD + b"X-Other: \0\r\n\r\n", 400, "invalid_message"),
        (b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "not_found"),
        (b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "method_not_allowed"),
    ],
)
async def test_what_reaches_no_route_is_answered_in_the_same_shape(server, said, status, code) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(said)
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")]
    body = await reader.readexactly(length)
    writer.close()
    assert head.split()[1] == str(status).encode() and b"x-request-id: req_" in head
    assert b"content-type: application/json" in head
    is_error(body, code)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_with_two_lengths_is_refused_and_its_connection_closed(server, method) -> None:
    """A proxy in front may have seen another end (RFC 9112, 6.1), so nothing behind it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"{method} /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"0\r\n\r\nGET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert b"both Content-Length and Transfer-Encoding" in answer and b"connection: close" in answer
    assert server.engine.observer.metrics.read("pafu_errors_total", code="invalid_message") == 1


async def test_a_socket_takes_as_long_headers_as_a_request(server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GOOD + b"Cookie: " + b"x" * 20_000 + b"\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n")
    async with asyncio.timeout(60):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_a_head_of_very_many_lines_is_refused_before_it_is_parsed(server) -> None:
    """h11 parses a head at once, and 16,000 headers of two letters would hold up everybody."""
    headers = b"a:\r\n" * 10_000
    body = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    for said in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", GOOD, body):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said + headers + b"\r\n")
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400"), answer[:80]
        assert b"header lines; at most 256 are read" in answer or b"too long" in answer, answer[-200:]


@contextlib.asynccontextmanager
async def metrics_port(server: Any) -> AsyncIterator[int]:
    """The port of a server's metrics alone, while it is served."""
    sock = listen("127.0.0.1", 0)
    async with metrics_served(server.service.metrics, sock):
        yield sock.getsockname()[1]


async def test_the_port_of_metrics_alone_answers_like_the_other(serve, monkeypatch) -> None:
    server = await serve(metrics_port=0, max_connections_per_address=2)
    async with metrics_port(server) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            whole, head = await client.get("/metrics"), await client.head("/metrics/")
            assert (whole.status_code, head.status_code, head.content) == (200, 200, b"") and b"# HELP" in whole.content
            assert "server" not in whole.headers and whole.headers["x-request-id"]
            is_error((await client.get("/none")).content, "not_found")
            monkeypatch.setattr(Metrics, "render", broken)
            is_error((await client.get("/metrics")).content, "internal_error")
        lengths = b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"
        for said in (b"Host: localhost\r\n" + lengths, b"Host: a\r\nHost: b\r\n", b"a:\r\n" * 300):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\n" + said + b"\r\n0\r\n\r\n")
            async with asyncio.timeout(60):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
            is_error(answer.partition(b"\r\n\r\n")[2], "invalid_message")
            writer.close()


async def test_a_flood_of_connections_to_the_port_of_metrics_takes_none_of_the_others(serve) -> None:
    server = await serve(metrics_port=0, max_connections_per_address=2)
    async with metrics_port(server) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
        for _, each in (*held, (reader, writer)):
            each.transport.abort()
