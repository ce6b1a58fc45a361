"""A scripted server: each test defines its replies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

FPS = 16
CHUNK_FRAMES = 12


class Peer:
    """The server's end of one connection, with the messages that it received."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self.sent_chunks = 0

    async def say(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def hear(self, type: str) -> dict[str, Any]:
        """The next message of this type; earlier ones are kept in ``heard``."""
        while True:
            message = json.loads(await self.socket.recv())
            self.heard.append(message)
            if message["type"] == type:
                return message

    async def begin(self, **config: Any) -> dict[str, Any]:
        """Receive session.start and accept it."""
        start = await self.hear("session.start")
        config = {"fps": FPS, "seed": start.get("seed", 0), **config}
        mime = 'video/mp4; codecs="avc1.64001f"'
        await self.say("video.start", request_id="req_1", session_id="sess_1", format="m4s", mime=mime, config=config)
        return start

    async def chunk(self, data: bytes, **fields: Any) -> None:
        """Send one chunk, metadata first; ``fields`` override the metadata's."""
        index = self.sent_chunks
        self.sent_chunks += 1
        metadata = {
            "kind": "media",
            "transport_chunk_index": index,
            "generation_chunk_index": index,
            "num_frames": CHUNK_FRAMES,
            "byte_length": len(data),
            "started_event_ids": [],
            "active_event_ids": [],
            "completed_event_ids": [],
            "stats": {"cache_tokens": 60 * index},
        }
        await self.say("video.chunk_metadata", **{**metadata, **fields})
        await self.socket.send(data)

    async def done(self, reason: str = "complete") -> None:
        await self.say("session.done", chunks=self.sent_chunks, stopped=reason == "stopped", reason=reason)


Script = Callable[[Peer], Awaitable[None]]
Serve = Callable[[Script], Awaitable[str]]


@pytest.fixture
async def serve_script() -> AsyncIterator[Serve]:
    """``url = await serve_script(script)``: a server that plays ``script`` for every connection."""
    async with AsyncExitStack() as servers:

        async def start(script: Script) -> str:
            async def play(socket: ServerConnection) -> None:
                try:
                    await script(Peer(socket))
                except ConnectionClosed:
                    pass  # the client left: its business

            server = await servers.enter_async_context(serve(play, "127.0.0.1", 0))
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start
