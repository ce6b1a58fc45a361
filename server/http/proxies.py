"""Normalizes requests that come through proxies, before all other middleware looks at them.

It applies a trusted proxy's X-Forwarded-* headers (host, scheme, caller's address), removes the sub-path and a trailing
slash, and handles HEAD as GET (uvicorn sends no body for it).
"""

from __future__ import annotations

import ipaddress
import re
from typing import AnyStr

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access.gate import BY_TOKEN

TOKEN = re.compile(f"({BY_TOKEN}[^/]*/[^/]*/)[^/]+")


class Proxies:
    """The middleware (see the module)."""

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...] = (), base_path: str = "") -> None:
        self._app = app
        self._trusted = [ipaddress.ip_network(text) for text in trusted]
        self._base = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        scope = {**scope, "pafu.asked": f"{scope.get('method', 'GET')} {without_token(scope['path'])[:500]!r}"}
        for name, empty in (("path", ""), ("raw_path", b"")):
            scope[name] = origin_form(scope.get(name, empty))
        prefix = self._base
        if self._trusts(scope.get("client")):
            headers = Headers(scope=scope)
            prefix = prefix or said(headers, "prefix").rstrip("/")
            self._apply_forwarded(scope, headers)
        if prefix and scope["type"] == "http" and scope["path"] == prefix:
            scope["pafu.page"] = prefix
        scope["path"] = bare(scope["path"], prefix)
        scope["raw_path"] = bare(scope.get("raw_path", b"").decode("latin-1"), prefix).encode("latin-1")
        if scope.get("method") == "HEAD" and not scope["path"].endswith("/content"):  # /content handles HEAD itself
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

    def _apply_forwarded(self, scope: Scope, headers: Headers) -> None:
        """Take host, port, scheme and caller from the proxy's headers."""
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
        """The last address of X-Forwarded-For that is not a trusted proxy."""
        for text in reversed(",".join(headers.getlist("x-forwarded-for")).split(",")):
            if text.strip() and not self._trusts((text.strip(), 0)):
                return text.strip()[:64]
        return ""


def without_token(path: str) -> str:
    """The path for the log, without the watch token."""
    return TOKEN.sub(r"\1...", path)


def origin_form(path: AnyStr) -> AnyStr:
    """The path of a request target that is a whole URL, as clients send it to what they take for a proxy (RFC 9112,
    3.2.2); the guard looks at Host. Others as they are."""
    text = path.decode("latin-1") if isinstance(path, bytes) else path
    if not text.lstrip("/").lower().startswith(("http://", "https://")):
        return path
    rest = "/" + text.partition("://")[2].partition("/")[2]
    return rest.encode("latin-1") if isinstance(path, bytes) else rest


def said(headers: Headers, what: str) -> str:
    """The last value of an X-Forwarded-* header, which the nearest proxy appended."""
    return headers.get(f"x-forwarded-{what}", "").rpartition(",")[2].strip()


def bare(path: str, prefix: str) -> str:
    """The path without the prefix and without a trailing slash."""
    if prefix and path.startswith(f"{prefix}/"):
        path = path[len(prefix) :]
    return path.rstrip("/") or "/"


class PageSlash:
    """Redirects from ``/pafu`` to ``/pafu/``, since the page's paths are relative."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = scope.get("pafu.page")
        await (redirect_to_page(prefix, send) if prefix else self._app(scope, receive, send))


async def redirect_to_page(prefix: str, send: Send) -> None:
    """A relative redirect, because the external host may be unknown."""
    location = f"{prefix.rpartition('/')[2]}/".encode("latin-1")
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
