"""The live stream over one WebSocket, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from pafu_client.errors import ConnectionLost, PafuError
from pafu_client.messages import (
    Camera,
    Chunk,
    ChunkMetadata,
    Event,
    InteractionApplied,
    InteractionFailed,
    InteractionQueued,
    SessionDone,
    VideoStart,
)
from pafu_client.options import Options, key_headers, live_address, start_message
from pafu_client.playhead import Playhead

REPORT_SECONDS = 0.1  # between two reports of the playhead
OPEN_TIMEOUT = 60.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
READ_AHEAD = 16  # chunks kept for a reader who does not read; the server is held back by the playhead long before
EVENTS_KEPT = 256


@asynccontextmanager
async def connect(url: str, **options: Unpack[Options]) -> AsyncIterator[VideoStream]:
    """Open a live stream: ``async with connect(url, prompt=...) as stream: async for chunk in stream: ...``.

    Leaving the block closes the connection, and the server forgets the session. Raises PafuError when there is no
    server, when it refuses the session (code, message and param are its own), or when the connection is lost.
    """
    start = start_message(options)
    timeout = options.get("open_timeout", OPEN_TIMEOUT)
    headers = {**key_headers(options.get("api_key")), **(options.get("headers") or {})}
    socket = await _open(live_address(url), headers, timeout)
    try:
        init = await _start(socket, start, timeout)
        stream = VideoStream(socket, init, options.get("realtime", True), options.get("on_event"))
        try:
            yield stream
        finally:
            await stream.close()
    finally:
        await socket.close()


async def _open(address: str, headers: Mapping[str, str] | None, timeout: float) -> ClientConnection:
    try:
        return await open_socket(
            address, additional_headers=headers, open_timeout=timeout, close_timeout=2, max_size=MAX_MESSAGE_BYTES
        )
    except InvalidStatus as error:
        raise PafuError.from_http(error.response.status_code, error.response.body or b"") from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        reason = str(error) or type(error).__name__
        message = f"no stream from {address}: {reason}; is the server running? (pafu serve)"
        raise PafuError("connect_failed", message, retryable=True) from None


async def _start(socket: ClientConnection, start: Mapping[str, Any], timeout: float) -> VideoStart:
    """Send session.start and wait for video.start. Raises the server's refusal as PafuError."""
    try:
        async with asyncio.timeout(timeout):
            await socket.send(json.dumps(start))
            while True:
                message = _decoded(await socket.recv())
                if message.get("type") == "video.start":
                    return VideoStart.from_wire(message)
                if message.get("type") == "error":
                    raise PafuError.from_wire(message)
                if message.get("type") == "session.done":
                    raise PafuError("session_rejected", f"the server ended the session: {message.get('reason')}")
    except TimeoutError:
        raise PafuError("start_timeout", f"no video.start within {timeout:g} s", retryable=True) from None
    except ConnectionClosed:
        raise ConnectionLost(socket.close_code, socket.close_reason or "") from None


def _decoded(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise PafuError("bad_message", "the server sent bytes where JSON text belongs")
    try:
        decoded = json.loads(message)
    except ValueError:
        raise PafuError("bad_message", "the server sent text that is no JSON") from None
    return decoded if isinstance(decoded, dict) else {}


class VideoStream:
    """A running stream: iterate over its chunks, change it, stop it. Made by ``connect``.

    init: the server's video.start. done: its session.done, None until then. events: the last queued, applied and
    failed changes.
    """

    def __init__(
        self,
        socket: ClientConnection,
        init: VideoStart,
        realtime: bool | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.init = init
        self.done: SessionDone | None = None
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._socket = socket
        self._on_event = on_event
        self._event_count = 0
        self._failure: Exception | None = None  # the last error; it is the stream's end if nothing follows it
        self._metadata: ChunkMetadata | None = None
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue(READ_AHEAD)
        self._ended = False
        self._playhead = None if realtime is None else Playhead(realtime)
        self._tasks = [asyncio.create_task(self._read())]
        if self._playhead is not None:
            self._tasks.append(asyncio.create_task(self._report()))

    def __aiter__(self) -> VideoStream:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self.receive()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def receive(self) -> Chunk | None:
        """The next chunk, or None when the stream ended in order. Raises PafuError when it ended otherwise."""
        chunk = None if self._ended else await self._chunks.get()
        if chunk is None:
            self._ended = True
            if self.done is None:
                raise self._end()
            return None
        if self._playhead is not None:
            self._playhead.take(chunk.metadata.num_frames / self.init.fps, time.monotonic())
            await self._report_once()
        return chunk

    async def interact(
        self, *, prompt: str | None = None, camera: Camera | None = None, event_id: str | None = None
    ) -> str:
        """Change the prompt, the camera or both from the next chunk on; returns the event's id.

        The server's answers arrive as events (``events``, ``on_event``) and in the chunks' ``started_event_ids``.
        """
        self._event_count += 1
        event_id = event_id or f"evt_{self._event_count}"
        event: dict[str, Any] = {}
        if prompt is not None:
            event["prompt"] = prompt
        if camera is not None:
            event["multi_modal_data"] = {"camera": dict(camera)}
        await self._send({"type": "session.interaction", "interaction": {"event_id": event_id, "event": event}})
        return event_id

    async def playback(self, position_seconds: float) -> None:
        """Report the playhead, in seconds of media since the start of the stream."""
        await self._send({"type": "session.playback", "position_seconds": position_seconds})

    async def stop(self) -> None:
        """Ask for the end after the chunk in hand; go on iterating to receive what was already made."""
        await self._send({"type": "session.stop"})

    async def close(self) -> None:
        """Close the connection. Done by leaving the ``connect`` block."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    # ---- the other side

    async def _send(self, message: Mapping[str, Any]) -> None:
        """Raises the stream's failure when the connection is gone; silent after session.done."""
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            if self.done is None:
                raise self._end() from None

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                await self._take(message)
        except ConnectionClosed:
            pass  # receive() says so, after the chunks that did arrive
        except Exception as error:  # nonsense from the server, or the caller's on_event: receive() raises it
            self._failure, self.done = error, None
            await self._socket.close(1002)
        await self._chunks.put(None)

    async def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            await self._chunks.put(self._chunk(message))
            self._failure = None  # the stream went on: that error was not its end
            return
        body = _decoded(message)
        match body.get("type"):
            case "video.chunk_metadata":
                self._metadata = ChunkMetadata.from_wire(body)
            case "session.interaction.queued":
                self._tell(InteractionQueued(str(body.get("event_id"))))
            case "session.interaction.applied":
                self._tell(InteractionApplied(str(body.get("event_id")), int(body.get("chunk_index", -1))))
            case "session.done":
                self.done = SessionDone.from_wire(body)
            case "error":
                refusal = PafuError.from_wire(body)
                self._failure = refusal
                self._tell(InteractionFailed(body.get("event_id"), refusal))

    def _end(self) -> Exception:
        """Why the stream ended before session.done."""
        return self._failure or ConnectionLost(self._socket.close_code, self._socket.close_reason or "")

    def _chunk(self, data: bytes) -> Chunk:
        metadata, self._metadata = self._metadata, None
        if metadata is None:
            raise PafuError("bad_message", f"the server sent {len(data)} bytes without metadata before them")
        if metadata.byte_length != len(data):
            reason = f"chunk {metadata.index} has {len(data)} bytes, its metadata says {metadata.byte_length}"
            raise PafuError("bad_message", reason)
        return Chunk(metadata, data)

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._report_once()

    async def _report_once(self) -> None:
        if self._playhead is not None:
            with contextlib.suppress(PafuError):  # a lost connection is told by receive()
                await self.playback(self._playhead.position(time.monotonic()))
