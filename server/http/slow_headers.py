"""Uvicorn's HTTP protocol with timeouts for request headers and for clients that do not read the reply; refuses what a
proxy in front could understand differently."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

import h11
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.http.connection_limit import ConnectionLimit, address_of
from server.http.replies import early
from server.http.small_reads import SmallReads

HEAD_SECONDS = 10.0
STALL_SECONDS = 60.0
HEAD_BYTES = 64 * 2**10  # of request line and headers
HEAD_LINES = 256  # h11 parses all at once, and they are looked through again and again
FRAMING = {b"content-length", b"transfer-encoding"}
VERSIONS = (b"1.0", b"1.1")
UVICORNS = "Invalid HTTP request received."  # its log line, which lacks reason and request id

log = logging.getLogger("uvicorn.error")
log.addFilter(lambda record: record.msg != UVICORNS)


class FewLines(ReceiveBuffer):
    """Refuses a head, or trailers, of more than HEAD_LINES."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        lines = super().maybe_extract_lines()
        if lines is not None and len(lines) > HEAD_LINES:
            raise h11.RemoteProtocolError(f"{len(lines)} header lines; at most {HEAD_LINES} are read")
        return lines


class StrictConnection(h11.Connection):
    """Refuses a request with two lengths, where a proxy in front may see the end elsewhere (RFC 9112, 6.1), with too
    many headers, or of a version that is not spoken here."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self._receive_buffer = FewLines()

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            if event.http_version not in VERSIONS:
                raise h11.RemoteProtocolError(f"HTTP/{event.http_version.decode()} is not spoken here, but HTTP/1.1")
            if {name for name, _ in event.headers} >= FRAMING:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


class TimeoutProtocol(SmallReads, H11Protocol):
    """Closes a connection that does not send complete headers in time or stops reading its reply.

    Uvicorn itself would wait forever.
    """

    head_seconds = HEAD_SECONDS
    stall_seconds = STALL_SECONDS
    _stalled: asyncio.TimerHandle | None = None
    _head: asyncio.TimerHandle | None = None
    data_received = H11Protocol.data_received
    limit: ConnectionLimit | None = None
    callers = ""  # before the address in ``limit``, which counts those of another port apart
    count: Callable[[str], None] | None = None  # receives the error code of invalid HTTP

    def __init__(self, config: uvicorn.Config, *given: Any, **named: Any) -> None:
        super().__init__(config, *given, **named)
        self.conn = StrictConnection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limit is not None and not self.limit.enter(self.callers + address_of(transport)):
            return transport.abort()
        transport.set_write_buffer_limits(high=0)  # ``pause_writing`` then means that unsent bytes are left
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._flows()
        self._forget_head()
        if self.limit is not None:
            self.limit.leave(self.callers + address_of(self.transport))

    def send_400_response(self, msg: str) -> None:
        """Like uvicorn's, with the usual error body, and the reason if h11 has one; also in the log."""
        reason = str(sys.exc_info()[1] or msg)[:200]
        headers, body = early(400, f"Invalid HTTP request received: {reason}")
        log.warning("Invalid HTTP request received: %s (answered with 400, %s)", reason, headers["x-request-id"])
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        for event in (
            h11.Response(status_code=400, headers=named, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()
        if self.count is not None:
            self.count("invalid_message")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._flows()

    def _flows(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()

    def rest(self, seconds: float) -> None:
        self.transport.pause_reading()
        self.loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        if not (self.transport.is_closing() or self.flow.read_paused):
            self.transport.resume_reading()

    def _expect_head(self) -> None:
        self._forget_head()
        self._head = self.loop.call_later(self.head_seconds, self._close_unless_new, self.cycle)

    def _forget_head(self) -> None:
        """Cancel the timer, which would keep all that a finished connection had for garbage collection to look at."""
        if self._head is not None:
            self._head.cancel()

    def _should_upgrade(self) -> bool:
        """Only HTTP/1.1 can upgrade (RFC 9110, 7.8); other requests are answered as what they are."""
        return (
            self.scope["http_version"] == "1.1" and self._get_upgrade() == b"websocket" and self._should_upgrade_to_ws()
        )

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._forget_head()
        super().handle_websocket_upgrade(event)
        if rest := self.conn.trailing_data[0]:  # which uvicorn drops
            cast(SmallReads, self.transport.get_protocol()).data_received(rest)

    def _close_unless_new(self, before: Any) -> None:
        """Close unless a request has started since ``before``, the last one when the wait began."""
        upgraded = self.transport.get_protocol() is not self
        if self.cycle is before and not upgraded and not self.transport.is_closing():
            self.transport.close()
