"""Promise: a broken download resumes, and a repeated order whose answer was lost creates only one video."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from pafu_client import Jobs, PafuError

Answer = Callable[[str, dict[str, str], asyncio.StreamWriter], Awaitable[None]]
VIDEO = {"id": "video_1", "status": "completed", "progress": 100, "seconds": "1", "seed": 4, "prompt": "x"}
FILM = bytes(range(256)) * 40


@pytest.fixture
async def serve_http() -> AsyncIterator[Callable[[Answer], Awaitable[str]]]:
    """``url = await serve_http(answer)``: ``answer`` gets request line, headers and body, and writes the reply."""
    servers = []

    async def start(answer: Answer) -> str:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            headers["body"] = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
            await answer(head[0], headers, writer)
            writer.close()

        servers.append(await asyncio.start_server(talk, "127.0.0.1", 0))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


def reply(writer: asyncio.StreamWriter, status: int, body: bytes, length: int | None = None) -> None:
    size = len(body) if length is None else length
    writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n".encode() + body)


async def test_a_download_goes_on_where_it_broke(serve_http, tmp_path) -> None:
    asked = []

    async def answer(line: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        asked.append(headers.get("range"))
        begin = int((headers.get("range") or "bytes=0-")[6:-1])
        rest = FILM[begin:]
        reply(writer, 206 if begin else 200, rest[: 1000 if len(asked) < 3 else None], len(rest))

    async with Jobs(await serve_http(answer)) as jobs:
        path = await jobs.download("video_1", tmp_path / "film.mp4")
    assert path.read_bytes() == FILM and asked == [None, "bytes=1000-", "bytes=2000-"]


async def test_an_order_whose_answer_was_lost_is_sent_again_under_its_key(serve_http) -> None:
    keys = []

    async def answer(line: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        keys.append(headers["idempotency-key"])
        assert json.loads(headers["body"])["prompt"] == "x"
        if len(keys) == 2:
            reply(writer, 200, json.dumps(VIDEO).encode())

    async with Jobs(await serve_http(answer)) as jobs:
        assert (await jobs.create("x")).id == "video_1"
    assert len(keys) == 2 and keys[0] == keys[1]


async def test_waiting_outlasts_a_server_that_is_not_ready_but_no_refusal(serve_http) -> None:
    states: list[tuple[int, object]] = [
        (200, {**VIDEO, "status": "in_progress", "progress": 30}),
        (503, {"error": {"code": "not_ready", "message": "starting"}}),
        (200, {**VIDEO, "status": "failed", "error": {"code": "disk_full", "message": "the disk is full"}}),
    ]
    seen = []

    async def answer(line: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        status, body = states.pop(0)
        reply(writer, status, json.dumps(body).encode())

    async with Jobs(await serve_http(answer)) as jobs:
        with pytest.raises(PafuError) as failed:
            await jobs.wait("video_1", on_progress=lambda video: seen.append((video.status, video.progress)))
    assert failed.value.code == "disk_full" and seen == [("in_progress", 30), ("failed", 100)]


async def test_nonsense_from_a_server_is_said(serve_http) -> None:
    async def answer(line: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, b'{"status": "queued"}')

    async with Jobs(await serve_http(answer)) as jobs:
        with pytest.raises(PafuError, match="invalid video"):
            await jobs.get("video_1")
