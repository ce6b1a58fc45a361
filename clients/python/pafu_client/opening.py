"""Opens a stream's connection, for the first time and after it was lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus

from pafu_client.errors import ConnectionLost, PafuError
from pafu_client.messages import Event, Reconnecting, SessionQueued, VideoStart
from pafu_client.proxies import blamed, is_here

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
FIRST_DELAY = 0.25  # seconds before the second attempt to reconnect; doubles with each
LONGEST_DELAY = 5.0
Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Door:
    """The server's address and how to connect to it. timeout: seconds to wait for video.start."""

    address: str
    headers: Mapping[str, str]
    timeout: float

    async def enter(self, first: Mapping[str, Any], tell: Tell) -> tuple[ClientConnection, VideoStart]:
        """Open a connection and send the first message. Raises PafuError if there is no server or it refuses."""
        socket = await self._open()
        try:
            return socket, await self._start(socket, first, tell)
        except BaseException:
            await socket.close()
            raise

    async def reenter(
        self, first: Mapping[str, Any], tell: Tell, within: float, lost: PafuError
    ) -> tuple[ClientConnection, VideoStart]:
        """Reconnect with growing delays for up to ``within`` seconds. Raises a final refusal, or else ``lost``."""
        give_up = time.monotonic() + within
        reason = lost
        for attempt, delay in enumerate(delays(), 1):
            tell(Reconnecting(attempt, delay, reason))
            if time.monotonic() + delay > give_up:
                raise lost
            await asyncio.sleep(delay)
            try:
                return await self.enter(first, tell)
            except PafuError as error:
                if not error.retryable:
                    raise
                reason = error
        raise AssertionError("delays are endless")

    async def _open(self) -> ClientConnection:
        try:
            return await open_socket(
                self.address,
                additional_headers=self.headers,
                open_timeout=self.timeout,
                close_timeout=2,
                max_size=MAX_MESSAGE_BYTES,
                proxy=None if is_here(self.address) else True,
            )
        except InvalidStatus as error:
            raise PafuError.from_http(error.response.status_code, error.response.body or b"") from None
        except (
            OSError,
            TimeoutError,
            InvalidHandshake,
            InvalidProxy,
            ImportError,
        ) as error:  # websockets needs python-socks for SOCKS proxies
            message = (
                f"no stream from {self.address}: {blamed(self.address, error)}; is the server running? (pafu serve)"
            )
            raise PafuError("connect_failed", message, retryable=True) from None

    async def _start(self, socket: ClientConnection, first: Mapping[str, Any], tell: Tell) -> VideoStart:
        try:
            async with asyncio.timeout(self.timeout):
                await socket.send(json.dumps(first))
                while True:
                    message = decoded(await socket.recv())
                    match message.get("type"):
                        case "video.start":
                            return VideoStart.from_wire(message)
                        case "session.queued":
                            tell(SessionQueued.from_wire(message))
                        case "error":
                            raise PafuError.from_wire(message)
                        case "session.done":
                            reason = f"the server ended the session: {message.get('reason')}"
                            raise PafuError("session_rejected", reason)
        except TimeoutError:
            raise PafuError("start_timeout", f"no video.start within {self.timeout:g} s", retryable=True) from None
        except ConnectionClosed:
            raise ConnectionLost(socket.close_code, socket.close_reason or "") from None


def delays() -> Iterator[float]:
    """Seconds to wait before each attempt: none at first, then doubling, with jitter so that clients do not reconnect
    all at once."""
    yield 0.0
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.75, 1.25)
        delay = min(2 * delay, LONGEST_DELAY)


def decoded(message: str | bytes) -> dict[str, Any]:
    """Parse a control message. Raises PafuError ``bad_message``."""
    if isinstance(message, bytes):
        raise PafuError("bad_message", "the server sent bytes instead of JSON text")
    try:
        body = json.loads(message)
    except ValueError:
        raise PafuError("bad_message", "the server sent invalid JSON") from None
    return body if isinstance(body, dict) else {}
