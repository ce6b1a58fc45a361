"""Host and Origin, checked before a request or a WebSocket is accepted.

Browsers let any page open a WebSocket to any host, and a name that an attacker owns can point to this machine (DNS
rebinding). So the Host must be ours, and a request that carries an Origin must come from our own page or from
loopback. A plain ASGI wrapper: Starlette's HTTP middlewares do not see WebSockets.
"""

from __future__ import annotations

import ipaddress
import json
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.config import Settings
from server.errors import POLICY, PafuError

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Lets through what is allowed; answers 403 with the error JSON otherwise."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = {name.lower() for name in (*settings.allowed_hosts, settings.host)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self.check(Headers(scope=scope), read_only=scope.get("method") in SAFE_METHODS)
            except PafuError as error:
                return await refuse(scope, receive, send, error)
        await self._app(scope, receive, send)

    def check(self, headers: Headers, read_only: bool) -> None:
        """Raises PafuError host_not_allowed or origin_not_allowed."""
        host = headers.get("host", "")
        if not self._host_allowed(host):
            reason = f"host {host[:200]!r} is not served here; allowed: localhost, IP addresses, PAFU_ALLOWED_HOSTS"
            raise PafuError("host_not_allowed", reason)
        origin = headers.get("origin")
        if origin is not None and not read_only and not self._origin_allowed(origin, host):
            reason = f"pages of {origin[:200]!r} may not use this server; PAFU_ALLOWED_ORIGINS can allow them"
            raise PafuError("origin_not_allowed", reason)

    def _host_allowed(self, host: str) -> bool:
        name = _host_name(f"//{host}")
        return name is not None and (_is_address(name) or _is_localhost(name) or name in self._hosts)

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if origin.lower() in self._origins:
            return True
        name = _host_name(origin)
        if name is None or urlsplit(origin).scheme not in ("http", "https"):
            return False
        same = urlsplit(origin).netloc.lower() == host.lower()
        local = _is_loopback(name) and _is_loopback(_host_name(f"//{host}") or "")
        return same or local


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _is_loopback(name: str) -> bool:
    return _is_localhost(name) or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


async def refuse(scope: Scope, receive: Receive, send: Send, error: PafuError) -> None:
    """Answer an HTTP request or an unaccepted WebSocket with the error's status and JSON."""
    scope["pafu.error"] = error.kind.code  # for the metrics, which are outermost
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            return await send({"type": "websocket.close", "code": POLICY, "reason": error.kind.code})
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    body = json.dumps(error.http_body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{prefix}.start", "status": error.kind.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})
