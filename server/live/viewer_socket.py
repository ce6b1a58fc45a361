"""A viewer's WebSocket as a stream of typed messages."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from server.access.bounded_json import Bounds, beside_the_loop
from server.errors import PafuError
from server.live import client_messages
from server.live.client_messages import ClientMessage
from server.live.server_messages import ChunkMetadata, ServerMessage, encode

CLOSE_WITHIN = 5.0  # seconds
CLOSE_REASON_BYTES = 120  # a close frame allows at most 123


class ViewerSocket:
    """Sends and receives messages. All methods raise WebSocketDisconnect once the viewer is gone."""

    def __init__(self, websocket: WebSocket) -> None:
        self._socket = websocket
        self._writing = asyncio.Lock()  # nothing may be sent between a chunk's metadata and its bytes

    async def accept(self) -> None:
        try:
            await self._socket.accept()
        except OSError:  # Starlette converts it only after the handshake
            raise WebSocketDisconnect(1006) from None

    async def receive(self, bounds: Bounds) -> ClientMessage:
        """The next message. Raises PafuError if it is invalid or exceeds ``bounds``."""
        received = await self._socket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1005), received.get("reason"))
        text = received.get("text")
        if text is None:
            raise PafuError("binary_message", "send JSON text messages; binary messages are not supported")
        return await beside_the_loop(len(text), client_messages.parse, text, bounds)

    async def send(self, message: ServerMessage) -> None:
        async with self._writing:
            self._check_open()
            await self._socket.send_text(encode(message))

    async def send_chunk(self, metadata: ChunkMetadata, data: bytes) -> None:
        async with self._writing:
            self._check_open()
            await self._socket.send_text(encode(metadata))
            await self._socket.send_bytes(data)

    async def end(self, code: int, message: ServerMessage, reason: str) -> None:
        """Send a last message and close; waits at most CLOSE_WITHIN for a viewer who no longer reads."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        with contextlib.suppress(WebSocketDisconnect, TimeoutError, RuntimeError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.send(message)
                await self._socket.close(code, reason.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore"))

    def _check_open(self) -> None:
        """Treat a socket closed by the viewer, or by uvicorn, as a disconnect."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            raise WebSocketDisconnect(1006)
