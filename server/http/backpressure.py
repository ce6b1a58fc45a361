"""Uvicorn's WebSocket protocol with real backpressure: a viewer who does not read costs at most a second of video.

Uvicorn's ``send`` returns once a message is in the transport's buffer, so an extra chunk is generated; and a connection
closed with a full buffer stays open as long as its peer does not read. Here, ``send`` of a chunk returns when most of
it has left the machine, and finished connections are aborted after a timeout.

Frames that are not whole messages (pings, pongs, fragments) never reach the application, so they are rate-limited here:
a connection that sends too many is read more slowly. Nor do invalid handshakes and frames: they are answered, counted
and logged here.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import websockets.http11
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response

from server.access.limits import Bucket
from server.errors import TOO_BIG
from server.http.connection_limit import ConnectionLimit, address_of
from server.http.replies import CODES, early
from server.http.slow_headers import HEAD_BYTES
from server.http.small_reads import SmallReads

websockets.http11.MAX_LINE_LENGTH = websockets.http11.MAX_NUM_HEADERS = HEAD_BYTES  # large cookies, as in HTTP

UNSENT_SHARE = 4  # 1/4 of a chunk of 0.75 s may be unsent; with the next chunk, that is less than a second of video
LOOK_AGAIN = 0.02  # seconds; polled only while a viewer reads more slowly than its stream
SIOCOUTQNSD = 0x894B  # linux/sockios.h: unsent bytes in the send queue
CUT_AFTER = 15.0  # seconds after the session's end; uvicorn itself waits 10 s for the peer's close frame


FRAMES_PER_SECOND, FRAMES_AT_ONCE = 100.0, 400.0  # limits on frames that are not whole messages
MOST_PONGS = 16  # queued for a peer that does not read


class BackpressureProtocol(SmallReads, WebSocketsSansIOProtocol):
    """A WebSocket connection with backpressure, frame limits and a bounded close (see the module)."""

    cut_after = CUT_AFTER
    _cut: asyncio.TimerHandle | None = None
    _calm: asyncio.TimerHandle | None = None  # set while reading is paused because of too many frames
    _frames, _pongs = 0, 0
    _early = b""  # received before the handshake was answered
    limit: ConnectionLimit | None = None  # counts the connection
    count: Callable[[str], None] | None = None  # receives the error codes of invalid handshakes and frames

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.conn.reject = rejected  # type: ignore[method-assign]
        self._pace = Bucket(FRAMES_PER_SECOND, FRAMES_AT_ONCE, time.monotonic())
        cast(asyncio.Transport, transport).set_write_buffer_limits(
            high=0
        )  # ``writable`` then means that the buffer is empty

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.limit is not None:
            self.limit.leave(address_of(self.transport))
        for timer in (self._cut, self._calm):
            if timer is not None:
                timer.cancel()

    # ---- what is invalid

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if (error := self.conn.handshake_exc) is not None:
            self._tell(self.response.status_code, error)

    def _refuse_handshake(self, error: Exception) -> None:
        """Answer a handshake that cannot be parsed; uvicorn itself never would."""
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        response = rejected(HTTPStatus.BAD_REQUEST, f"Failed to open a WebSocket connection: {error}.")
        self.transport.write(response.serialize())
        self.transport.close()
        self._tell(response.status_code, error)

    def send_receive_event_to_app(self) -> None:
        """Like uvicorn's, which logs a traceback if text is not UTF-8."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError as error:
            self.frames = []
            if not self.close_sent:
                self.conn.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
                self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        if not self.close_sent and self.conn.close_sent is not None:
            self._tell(self.conn.close_sent.code, self.conn.close_sent.reason)
        super().handle_parser_exception()

    def _tell(self, status: int, reason: object) -> None:
        """Log and count invalid data; ``status`` is the HTTP status or close code of the answer."""
        self.logger.warning("Invalid WebSocket data received: %.200s (answered with %d)", reason, status)
        if self.count is not None:
            self.count("message_too_large" if status == TOO_BIG else CODES.get(status, "invalid_message"))

    # ---- frames that are not whole messages

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self._early += data
            return self.transport.pause_reading()
        WebSocketsSansIOProtocol.data_received(self, data)
        if (error := self.conn.handshake_exc) is not None and not self.handshake_initiated:
            return self._refuse_handshake(cast(Exception, error.__cause__ or error))
        frames, self._frames = self._frames, 0
        if frames and (wait := self._pace.spend(frames, time.monotonic())):
            self.rest(wait)

    def rest(self, seconds: float) -> None:
        if self._calm is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._calm = self.loop.call_later(seconds, self._resume_after_pause)

    def _resume_after_pause(self) -> None:
        self._calm = None
        self._read_on()

    def _read_on(self) -> None:
        if not self.read_paused and self._calm is None and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """Like uvicorn's, but does not resume reading while frames are rate-limited."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    def handle_ping(self) -> None:
        """Answer a ping, but queue at most MOST_PONGS answers for a peer that does not read."""
        self._frames += 1
        self._pongs = self._pongs + 1 if self.transport.get_write_buffer_size() else 0
        if self._pongs <= MOST_PONGS:
            super().handle_ping()
        else:
            self.conn.data_to_send()  # discard the answer

    def handle_pong(self, event: Frame) -> None:
        self._frames += 1
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        self._frames += 1
        super().handle_cont(event)

    # ---- sending

    async def send(self, message: Any) -> None:
        """Returns when the kernel has the whole message and at most a quarter of a chunk is unsent there.

        Raises ClientDisconnected (an OSError), also if the client left before the handshake was answered, for which
        uvicorn would log an error.
        """
        if message["type"] == "websocket.accept" and self.transport.is_closing():
            self.handshake_complete = True  # as ``connection_lost`` is about to set it
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.accept" and self._early:
            early, self._early = self._early, b""
            self._read_on()
            self.data_received(early)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # a regular refusal, for which uvicorn would log an error
        await self.writable.wait()
        most = len(message.get("bytes") or b"") // UNSENT_SHARE
        while most and not self.disconnected and unsent_bytes(self.transport) > most:
            await asyncio.sleep(LOOK_AGAIN)

    async def run_asgi(self) -> None:
        """Run the connection; CUT_AFTER seconds after its end, abort it if it is still open."""
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._cut = self.loop.call_later(self.cut_after, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The peer does not answer pings, so abort: it would not read a close frame either."""
        super().keepalive_timeout()
        self.transport.abort()


def rejected(status: int, text: str) -> Response:
    """The HTTP reply to an invalid handshake."""
    headers, body = early(int(status), text.strip())
    return Response(int(status), HTTPStatus(status).phrase, Headers(headers), body)


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """Bytes in the kernel's send queue that were not sent yet; 0 if the system does not say."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)), sys.byteorder)
    except (OSError, ValueError, AttributeError):  # not Linux, or closed meanwhile
        return 0
