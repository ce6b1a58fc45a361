"""Uvicorn's WebSocket protocol, honest about what has left: a viewer who does not read costs a second of video at most.

Uvicorn's ``send`` returns when a message lies in the transport's buffer, so one chunk more is made than has left, and a
connection that is closed with bytes in its buffer lives for as long as a peer that never reads likes. Here ``send`` of
a chunk returns when most of it has left the machine, and what is over is cut off.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

UNSENT_SHARE = 4  # a quarter of a chunk of 0.75 s, and the next one behind it: less than a second
LOOK_AGAIN = 0.02  # seconds; only while a viewer is slower than its stream
SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes in the send queue that were not sent yet
CUT_AFTER = 15.0  # seconds behind the session's end; uvicorn itself waits 10 s for the peer's close frame


class HonestProtocol(WebSocketsSansIOProtocol):
    """See the module."""

    cut_after = CUT_AFTER
    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=0)  # ``writable`` means that nothing is left

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()

    async def send(self, message: Any) -> None:
        """Returns when the kernel has all of the message, and no more than a quarter of a chunk waits there.

        Raises ClientDisconnected, an OSError, also for who left before the handshake was answered: uvicorn itself would
        answer nothing, and blame us for it.
        """
        if message["type"] == "websocket.accept" and self.transport.is_closing():
            self.handshake_complete = True  # as ``connection_lost`` will say in a moment
            raise ClientDisconnected
        await super().send(message)
        await self.writable.wait()
        most = len(message.get("bytes") or b"") // UNSENT_SHARE
        while most and not self.disconnected and unsent_bytes(self.transport) > most:
            await asyncio.sleep(LOOK_AGAIN)

    async def run_asgi(self) -> None:
        """The session from its begin to its end; behind it nobody is waited for much longer."""
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._cut = self.loop.call_later(self.cut_after, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The peer does not answer: it will not take what is left for it either, nor a close frame behind that."""
        super().keepalive_timeout()
        self.transport.abort()


def unsent_bytes(transport: asyncio.BaseTransport) -> int:
    """Bytes that the kernel has taken but not sent (it takes 64 KiB and more at once); 0 where it does not tell."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)), sys.byteorder)
    except (OSError, ValueError, AttributeError):  # another system, or closed meanwhile
        return 0
