"""A live stream over a WebSocket, for asyncio."""

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
from websockets.exceptions import ConnectionClosed

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
    SessionInterrupted,
    SessionPaused,
    SessionQueued,
    SessionResumed,
    VideoStart,
)
from pafu_client.opening import Door, decoded
from pafu_client.options import Options, WatchOptions, key_headers, live_address, start_message, watch_message
from pafu_client.playhead import Playhead

REPORT_SECONDS = 0.1  # between two playhead reports
OPEN_TIMEOUT = 60.0
RESUME_WITHIN = 60.0
READ_AHEAD = 16  # chunks buffered for a slow reader; the playhead normally holds the server back much earlier
EVENTS_KEPT = 256


@asynccontextmanager
async def connect(url: str, **options: Unpack[Options]) -> AsyncIterator[VideoStream]:
    """Open a live stream: ``async with connect(url, prompt=...) as stream: async for chunk in stream: ...``.

    A lost connection is reopened automatically, and the stream resumes after the last chunk received whole (for up to
    ``resume_within`` seconds; 0 turns this off). Leaving the block stops the session. Raises PafuError if there is no
    server, if it refuses the session (with its code, message and param), or if the connection stays lost.
    """
    async with _entered(url, start_message(options), options, options.get("realtime", True)) as stream:
        yield stream


@asynccontextmanager
async def watch(url: str, session_id: str, **options: Unpack[WatchOptions]) -> AsyncIterator[VideoStream]:
    """Watch another viewer's session, from its newest chunk on, at its pace.

    Watchers cannot steer; leaving the block does not affect the session. A lost connection is reopened; chunks
    generated meanwhile are missing. Raises PafuError, ``unknown_session`` if the session does not exist or has ended.
    """
    async with _entered(url, watch_message(session_id, options), options, None) as stream:
        yield stream


@asynccontextmanager
async def _entered(
    url: str, first: Mapping[str, Any], options: Mapping[str, Any], realtime: bool | None
) -> AsyncIterator[VideoStream]:
    headers = {**key_headers(options.get("api_key")), **(options.get("headers") or {})}
    door = Door(live_address(url), headers, options.get("open_timeout", OPEN_TIMEOUT))
    log = EventLog(options.get("on_event"))
    socket, init = await door.enter(first, log.tell)
    stream = VideoStream(door, first, socket, init, log, realtime, options.get("resume_within", RESUME_WITHIN))
    try:
        yield stream
    finally:
        await stream.close()


class EventLog:
    """The last events of a stream; each is passed to ``on_event`` as it happens."""

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        self.kept: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._on_event = on_event

    def tell(self, event: Event) -> None:
        self.kept.append(event)
        if self._on_event is not None:
            self._on_event(event)


class VideoStream:
    """A running stream: iterate over its chunks, change it, stop it. Created by ``connect`` or ``watch``.

    init: the server's first video.start. done: its session.done, None until then. events: the latest events of changes,
    the session and its connection.
    """

    def __init__(
        self,
        door: Door,
        first: Mapping[str, Any],
        socket: ClientConnection,
        init: VideoStart,
        log: EventLog,
        realtime: bool | None,
        resume_within: float,
    ) -> None:
        self.init = init
        self.done: SessionDone | None = None
        self._door, self._first, self._socket, self._log = door, first, socket, log
        self._looks_on = first["type"] == "session.watch"
        self._resume_within = resume_within if init.resume_token or self._looks_on else 0.0
        self._event_count = 0
        self._unheard: dict[str, dict[str, Any]] = {}  # unanswered changes, sent again over a new connection
        self._paused = self._stopping = False
        self._failure: Exception | None = None  # the last error; raised if the stream does not continue after it
        self._metadata: ChunkMetadata | None = None
        self._last_index = -1  # of the chunks received whole
        self._head = b""  # of the MP4; a resumed stream sends it again
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue(READ_AHEAD)
        self._ended = self._over = False  # for the reader of chunks; for the connection
        self._playhead = None if realtime is None else Playhead(realtime)
        self._tasks = [asyncio.create_task(self._run())]
        if self._playhead is not None:
            self._tasks.append(asyncio.create_task(self._report()))

    @property
    def events(self) -> deque[Event]:
        return self._log.kept

    def __aiter__(self) -> VideoStream:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self.receive()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def receive(self) -> Chunk | None:
        """The next chunk, or None when the stream ended normally. Raises PafuError if it failed."""
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
        message = {"type": "session.interaction", "interaction": {"event_id": event_id, "event": event}}
        self._unheard[event_id] = message
        await self._send(message)
        return event_id

    async def playback(self, position_seconds: float) -> None:
        """Report the playhead, in seconds of media since the start of the stream."""
        await self._send({"type": "session.playback", "position_seconds": position_seconds})

    async def pause(self) -> None:
        """Stop generation until ``resume``; the session keeps its place and memory."""
        self._paused = True
        await self._send({"type": "session.pause"})

    async def resume(self) -> None:
        """Continue after ``pause``."""
        self._paused = False
        await self._send({"type": "session.resume"})

    async def stop(self) -> None:
        """Ask the server to stop after the current chunk; keep iterating to receive what is already generated."""
        self._stopping = True
        await self._send({"type": "session.stop"})

    async def close(self) -> None:
        """Stop the session and close the connection. Leaving the ``connect`` block does this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.done is None:
            with contextlib.suppress(ConnectionClosed):  # otherwise the server would keep the session for a resume
                await self._socket.send(json.dumps({"type": "session.stop"}))
        await self._socket.close()

    # ---- the connection

    async def _send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Raises the stream's failure if the connection is lost for good; does nothing after
        session.done.

        While the client reconnects, nothing is lost: changes, pause and stop are sent over the new connection.
        """
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            if self.done is None and (self._over or not self._may_resume):
                raise self._end() from None

    async def _run(self) -> None:
        """Read from one connection after another until the stream ends."""
        try:
            await self._read()
            while self.done is None and self._may_resume:
                await self._come_back()
                await self._read()
        except Exception as error:  # a refusal, an invalid message, or the caller's on_event; receive() raises it
            self._failure, self.done = error, None
            await self._socket.close(1002)
        self._over = True
        await self._chunks.put(None)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # receive() reports it, after the chunks that did arrive
            async for message in self._socket:
                await self._take(message)

    @property
    def _may_resume(self) -> bool:
        """Whether the session may continue: the connection broke, or the server left without ending the session."""
        code = self._socket.close_code
        return self._resume_within > 0 and (code == 1006 or (code in (1001, 1012) and self._failure is None))

    async def _come_back(self) -> None:
        """Resume the session after the last chunk. Raises PafuError."""
        self._metadata = None
        first = self._first if self._looks_on else self._resumption()
        lost = ConnectionLost(self._socket.close_code, self._socket.close_reason or "")
        self._socket, start = await self._door.reenter(first, self._log.tell, self._resume_within, lost)
        self._log.tell(SessionResumed(int(start.raw.get("next_chunk_index", self._last_index + 1))))
        again = list(self._unheard.values())
        again += [{"type": "session.pause"}] * self._paused + [{"type": "session.stop"}] * self._stopping
        for message in again:
            await self._send(message)

    def _resumption(self) -> dict[str, Any]:
        return {
            "type": "session.resume",
            "session_id": self.init.session_id,
            "token": self.init.resume_token,
            "last_chunk_index": self._last_index,
            "format": self.init.format or "m4s",
        }

    async def _take(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            # a watcher who reconnects receives the newest chunk again
            before, chunk = self._last_index, self._chunk(message)
            if not self._looks_on or chunk.metadata.index > before:
                await self._chunks.put(chunk)
            self._failure = None  # the stream continued, so that error was not its end
            return
        body = decoded(message)
        match body.get("type"):
            case "video.chunk_metadata":
                self._metadata = ChunkMetadata.from_wire(body)
            case "session.interaction.queued":
                self._heard(InteractionQueued(str(body.get("event_id"))))
            case "session.interaction.applied":
                self._heard(InteractionApplied(str(body.get("event_id")), int(body.get("chunk_index", -1))))
            case "session.queued":
                self._log.tell(SessionQueued.from_wire(body))
            case "session.interrupted":
                self._log.tell(SessionInterrupted(str(body.get("reason") or "")))
            case "session.paused":
                self._log.tell(SessionPaused(int(body.get("next_chunk_index", -1))))
            case "session.resumed":
                self._log.tell(SessionResumed(int(body.get("next_chunk_index", -1))))
            case "session.done":
                done = SessionDone.from_wire(body)
                mine = bool(self.init.resume_token) or self._looks_on
                if self._stopping or not (done.resumable and self._resume_within > 0 and mine):
                    self.done = done  # otherwise this connection ends, and the next server has the session
            case "error":
                refusal = PafuError.from_wire(body)
                self._failure = refusal
                self._heard(InteractionFailed(body.get("event_id"), refusal))

    def _heard(self, event: InteractionQueued | InteractionApplied | InteractionFailed) -> None:
        """The server answered a change."""
        if event.event_id is not None:
            self._unheard.pop(event.event_id, None)
        self._log.tell(event)

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
        self._last_index = metadata.index
        return Chunk(metadata, self._without_second_head(data) if self.init.format == "m4s" else data)

    def _without_second_head(self, data: bytes) -> bytes:
        """Remove the MP4 head with which each connection begins, except the first, so that joined chunks are one
        file."""
        if not self._head:
            self._head = data[: max(0, data.find(b"moof") - 4)]
        elif data.startswith(self._head):
            return data[len(self._head) :]
        return data

    async def _report(self) -> None:
        while True:
            # first report before anything is played: until then the server keeps what it sends
            await self._report_once()
            await asyncio.sleep(REPORT_SECONDS)

    async def _report_once(self) -> None:
        if self._playhead is not None:
            with contextlib.suppress(PafuError):  # receive() reports a lost connection
                await self.playback(self._playhead.position(time.monotonic()))
