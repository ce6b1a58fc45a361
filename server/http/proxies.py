"""A request as the routes know it, whatever stands between the caller and this server.

Outermost of all: what a trusted proxy says of the request is put in its place (host, scheme, caller's address), a
sub-path and a slash too many are taken off, and HEAD is asked as GET (uvicorn sends no body for it).
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.config import Settings


class Proxies:
    """See the module."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._trusted = [ipaddress.ip_network(text) for text in settings.trusted_proxies]
        self._base = settings.base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        scope = dict(scope)
        prefix = self._base
        if self._trusts(scope.get("client")):
            headers = Headers(scope=scope)
            prefix = prefix or said(headers, "prefix").rstrip("/")
            self._believe(scope, headers)
        if prefix and scope["type"] == "http" and scope["path"] == prefix:  # the page's own paths are relative
            return await to_the_page(prefix, send)
        scope["path"] = bare(scope["path"], prefix)
        scope["raw_path"] = bare(scope.get("raw_path", b"").decode("latin-1"), prefix).encode("latin-1")
        if scope.get("method") == "HEAD" and not scope["path"].endswith("/content"):  # which has a HEAD of its own
            scope["method"] = "GET"
        await self._app(scope, receive, send)

    def _trusts(self, client: tuple[str, int] | None) -> bool:
        if client is None or not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _believe(self, scope: Scope, headers: Headers) -> None:
        """Host, port, scheme and caller as the proxy tells them."""
        host = said(headers, "host") or headers.get("host", "")
        port, scheme = said(headers, "port"), said(headers, "proto")
        if port.isdecimal() and not host.rpartition("]")[2].count(":"):
            host = f"{host}:{port}"
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope["headers"].append((b"host", host.encode("latin-1")))
        if scheme in ("http", "https"):
            scope["scheme"] = scheme
        if caller := self._caller(headers):
            scope["client"] = (caller, 0)

    def _caller(self, headers: Headers) -> str:
        """The last address of X-Forwarded-For that is no proxy of ours."""
        for text in reversed(",".join(headers.getlist("x-forwarded-for")).split(",")):
            if text.strip() and not self._trusts((text.strip(), 0)):
                return text.strip()[:64]
        return ""


def said(headers: Headers, what: str) -> str:
    """What the proxy nearest to us says in ``X-Forwarded-...``; each appends what it adds."""
    return headers.get(f"x-forwarded-{what}", "").rpartition(",")[2].strip()


def bare(path: str, prefix: str) -> str:
    """The path without the sub-path in front and a slash behind."""
    if prefix and path.startswith(f"{prefix}/"):
        path = path[len(prefix) :]
    return path.rstrip("/") or "/"


async def to_the_page(prefix: str, send: Send) -> None:
    """From ``/pafu`` to ``/pafu/``, by a relative address: who knows under which name the caller came."""
    location = f"{prefix.rpartition('/')[2]}/".encode("latin-1")
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
