"""Uvicorn's WebSocket protocol, honest about what has left: a viewer who does not read costs a second of video at most.

Uvicorn's ``send`` returns when a message lies in the transport's buffer, so one chunk more is made than has left, and a
connection that is closed with bytes in its buffer lives for as long as a peer that never reads likes. Here ``send`` of
a chunk returns when most of it has left the machine, and what is over is cut off.

Frames that are no message (pings, pongs, pieces of a message) never reach the application, so it cannot pace them; they
are paced here: who sends too many is read more slowly.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import time
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import Frame
from websockets.http11 import Request, Response

from server.access.limits import Bucket
from server.http.doors import Doors, address_of
from server.http.replies import early
from server.http.small_reads import SmallReads

UNSENT_SHARE = 4  # of a chunk of 0.75 s; with the next one queued after it, less than a second of video
LOOK_AGAIN = 0.02  # seconds; polled only while a viewer reads more slowly than its stream comes
SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes in the send queue that were not sent yet
CUT_AFTER = 15.0  # seconds after the session's end; uvicorn itself waits 10 s for the peer's close frame


FRAMES_PER_SECOND, FRAMES_AT_ONCE = 100.0, 400.0  # that are no whole message
MOST_PONGS = 16  # in a buffer that its peer does not empty


class HonestProtocol(SmallReads, WebSocketsSansIOProtocol):  # type: ignore[misc]
    """See the module."""

    cut_after = CUT_AFTER
    _cut: asyncio.TimerHandle | None = None
    _calm: asyncio.TimerHandle | None = None  # while a peer that sends too many frames is not read
    _frames, _pongs = 0, 0
    doors: Doors | None = None  # where its connection came in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pace = Bucket(FRAMES_PER_SECOND, FRAMES_AT_ONCE, time.monotonic())
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=0)  # ``writable`` means that nothing is left

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.doors is not None:
            self.doors.leave(address_of(self.transport))
        for timer in (self._cut, self._calm):
            if timer is not None:
                timer.cancel()

    def handle_connect(self, event: Request) -> None:
        """As uvicorn's; a handshake that is none is refused in the shape of every other error."""
        self.conn.reject = rejected  # type: ignore[method-assign]
        super().handle_connect(event)

    # ---- frames that are no message

    def data_received(self, data: bytes) -> None:
        WebSocketsSansIOProtocol.data_received(self, data)
        frames, self._frames = self._frames, 0
        if frames and (wait := self._pace.spend(frames, time.monotonic())):
            self.rest(wait)

    def rest(self, seconds: float) -> None:
        if self._calm is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._calm = self.loop.call_later(seconds, self._calmed)

    def _calmed(self) -> None:
        self._calm = None
        self._read_on()

    def _read_on(self) -> None:
        if not self.read_paused and self._calm is None and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """As uvicorn's, which would read on although the peer has to calm down."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    def handle_ping(self) -> None:
        """Answer; one who pings and does not read is owed no more than a few answers."""
        self._frames += 1
        self._pongs = self._pongs + 1 if self.transport.get_write_buffer_size() else 0
        if self._pongs <= MOST_PONGS:
            super().handle_ping()
        else:
            self.conn.data_to_send()  # forgotten

    def handle_pong(self, event: Frame) -> None:
        self._frames += 1
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        self._frames += 1
        super().handle_cont(event)

    # ---- what goes out

    async def send(self, message: Any) -> None:
        """Returns when the kernel has all of the message, and no more than a quarter of a chunk waits there.

        Raises ClientDisconnected, an OSError, also for who left before the handshake was answered: uvicorn itself would
        answer nothing, and blame us for it.
        """
        if message["type"] == "websocket.accept" and self.transport.is_closing():
            self.handshake_complete = True  # as ``connection_lost`` will say in a moment
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # refused in order: uvicorn would log an error after it
        await self.writable.wait()
        most = len(message.get("bytes") or b"") // UNSENT_SHARE
        while most and not self.disconnected and unsent_bytes(self.transport) > most:
            await asyncio.sleep(LOOK_AGAIN)

    async def run_asgi(self) -> None:
        """The session from begin to end; afterwards nobody is waited for much longer."""
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._cut = self.loop.call_later(self.cut_after, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The peer does not answer, so it will not read what is left for it, nor a close frame after that."""
        super().keepalive_timeout()
        self.transport.abort()


def rejected(status: int, text: str) -> Response:
    """The answer to a handshake that cannot be accepted."""
    headers, body = early(int(status), text)
    return Response(int(status), HTTPStatus(status).phrase, Headers(headers), body)


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """Bytes that the kernel has taken but not sent (it takes 64 KiB and more at once); 0 where it does not tell."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)), sys.byteorder)
    except (OSError, ValueError, AttributeError):  # another system, or closed meanwhile
        return 0
