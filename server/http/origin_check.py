"""Checks Host, Origin and key before a request or WebSocket is accepted, and limits request bodies.

Browsers let any page open a WebSocket to any host, and an attacker's host name can point to this machine (DNS
rebinding). So the Host must be ours, and a request with an Origin must come from our own page or loopback. Then the
caller is identified (server.access.gate). This is plain ASGI, since Starlette's HTTP middleware does not see
WebSockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.gate import PROBES, Access, neutral_protocol
from server.access.limits import Bucket
from server.config import Settings
from server.config.addresses import is_address, is_localhost, is_loopback
from server.errors import POLICY, PafuError
from server.http.unexpected import answer

log = logging.getLogger("pafu.guard")

MOST_TOLD, TELL_AGAIN = 100, 600.0  # different refusals that are logged within so many seconds, each once
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
UPLOADS = "/v1/videos"  # only these routes accept pictures and videos, as JSON or multipart forms
UPLOAD_TYPES = ("application/json", "multipart/form-data")
TEXT_BODY, SMALL_BODY = 64 * 2**10, 4 * 2**10  # bytes: other bodies on upload routes; bodies on all other routes


class Guard:
    """Passes allowed requests on, with the caller in ``scope["state"]``; refuses others with an error body."""

    def __init__(self, app: ASGIApp, settings: Settings, access: Access) -> None:
        self._app = app
        self._access = access
        self._message_rate = settings.messages_per_second
        self._max_body, self._body_timeout = settings.max_body_bytes, settings.body_timeout
        self._hosts = {name.lower() for name in (*settings.allowed_hosts, settings.host)}
        self._origins = set(settings.allowed_origins)
        self._told: set[tuple[str, str | None, str | None]] = set()
        self._told_since = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        try:
            headers = Headers(scope=scope)
            read_only = scope.get("method") in SAFE_METHODS
            if not (read_only and scope["path"] in PROBES):  # orchestrators may use any host name, or none
                self.check(headers, read_only)
            caller = self._access.admit(scope)
            if scope["type"] == "http":
                receive = Body(receive, headers, self._most_body(scope, headers), self._body_timeout)
            else:
                receive = paced(receive, self._message_rate)
        except PafuError as error:
            self._tell(scope, error)
            return await refuse(scope, receive, send, error)
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, answering(scope, send) if scope["type"] == "websocket" else send)

    def _tell(self, scope: Scope, error: PafuError) -> None:
        """Log a refusal once per origin and host in TELL_AGAIN, so that strangers cannot flood the log."""
        if time.monotonic() - self._told_since >= TELL_AGAIN:
            self._told, self._told_since = set(), time.monotonic()
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host")
        key = (error.kind.code, origin, host)
        if key in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(key)
        log.warning("refused %s: %s (origin %.200r, host %.200r)", error.kind.code, error.message, origin, host)

    def _most_body(self, scope: Scope, headers: Headers) -> int:
        if not scope["path"].startswith(UPLOADS):
            return min(SMALL_BODY, self._max_body)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self._max_body if kind in UPLOAD_TYPES else min(TEXT_BODY, self._max_body)

    def check(self, headers: Headers, read_only: bool) -> None:
        """Raises PafuError host_not_allowed or origin_not_allowed."""
        host = headers.get("host", "")
        if not self._host_allowed(host):
            reason = f"host {host[:200]!r} is not allowed; allowed: localhost, IP addresses, PAFU_ALLOWED_HOSTS"
            raise PafuError("host_not_allowed", reason)
        origin = headers.get("origin")
        if origin is not None and not read_only and not self._origin_allowed(origin, host):
            raise PafuError("origin_not_allowed", why_not(origin, host))

    def _host_allowed(self, host: str) -> bool:
        name = _host_name(f"//{host}")
        return name is not None and (is_address(name) or is_localhost(name) or name in self._hosts)

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if origin.lower() in self._origins:
            return True
        name = _host_name(origin)
        if name is None or urlsplit(origin).scheme not in ("http", "https"):
            return False
        same = _authority(urlsplit(origin).netloc) == _authority(host)
        local = is_loopback(name) and is_loopback(_host_name(f"//{host}") or "")
        return same or local


def why_not(origin: str, host: str) -> str:
    """Why a page may not use this server: it has a foreign origin, or a proxy changes the Host."""
    name = _host_name(origin)
    if name is not None and name == _host_name(f"//{host}"):
        return (
            f"the page's origin is {origin[:200]!r}, but the request's host is {host[:200]!r}: a proxy between them "
            "changes the Host. Let it forward Host and port (nginx: proxy_set_header Host $http_host), or send "
            "X-Forwarded-Host and X-Forwarded-Port and list it in PAFU_TRUSTED_PROXIES"
        )
    return f"pages from {origin[:200]!r} may not use this server; add the origin to PAFU_ALLOWED_ORIGINS to allow them"


def _authority(host: str) -> str:
    """Host and port as browsers write them: lower case, without a default port (proxies may add it)."""
    return host.lower().removesuffix(":443").removesuffix(":80")


def _host_name(url: str) -> str | None:
    """None for what is no host with or without a port."""
    try:
        parts = urlsplit(url)
        return None if "@" in parts.netloc or parts.port == 0 else parts.hostname
    except ValueError:
        return None


class Body:
    """Wraps a request's ``receive``; raises 413 if the body is too large, 408 if it is too slow."""

    def __init__(self, receive: Receive, headers: Headers, most: int, within: float) -> None:
        """Raises PafuError body_too_large if the Content-Length is too large."""
        self._receive, self._most, self._within = receive, most, within
        self._taken = 0
        self._until: float | None = None  # deadline, set at the first read
        self._more = True
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise self._too_large()

    async def __call__(self) -> Message:
        if not self._more:  # the body is complete; later calls wait for the disconnect
            return await self._receive()
        self._until = self._until or asyncio.get_running_loop().time() + self._within
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            # HTTPException, because FastAPI converts other errors while reading a body into a 400
            raise HTTPException(408, f"the body did not arrive within {self._within:g} s") from None
        self._taken += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._taken > self._most:
            raise HTTPException(413, self._too_large().message)
        return message

    def _too_large(self) -> PafuError:
        return PafuError("body_too_large", f"the body is larger than the {self._most} bytes allowed here")


def paced(receive: Receive, rate: float) -> Receive:
    """Wraps a WebSocket's ``receive`` to read at most ``rate`` messages per second, with bursts of one second's worth.

    A client that floods is only read more slowly, without cost for others.
    """
    bucket = Bucket(rate, max(1.0, rate), time.monotonic())

    async def receive_in_time() -> Message:
        message = await receive()
        while message["type"] == "websocket.receive" and (wait := bucket.take(time.monotonic())):
            await asyncio.sleep(wait)
        return message

    return receive_in_time


def answering(scope: Scope, send: Send) -> Send:
    """Wraps ``send`` to select an offered subprotocol on accept; browsers close the connection otherwise."""
    protocol = neutral_protocol(scope)

    async def send_with_protocol(message: Message) -> None:
        if message["type"] == "websocket.accept" and message.get("subprotocol") is None:
            message = {**message, "subprotocol": protocol}
        await send(message)

    return send_with_protocol


async def refuse(scope: Scope, receive: Receive, send: Send, error: PafuError) -> None:
    """Answer an HTTP request or an unaccepted WebSocket with the error's status and JSON."""
    scope["pafu.error"] = error.kind.code  # read by server.http.timed
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            return await send({"type": "websocket.close", "code": POLICY, "reason": error.kind.code})
    await answer(scope, send, error)
