"""Counts, times and identifies requests, and logs them if configured."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.replies import new_request_id
from server.telemetry import logs
from server.telemetry.observer import Observer
from server.telemetry.traces import trace_id_of

ANSWERS = ("http.response.start", "websocket.http.response.start", "websocket.accept")

SWITCHED = 101  # the status of a socket that was accepted

access = logging.getLogger("pafu.access")


def request_id_of(scope: Scope) -> str:
    """The caller's request id or a new one; also stored in ``scope["state"]``."""
    given = Headers(scope=scope).get("x-request-id", "")
    name = given[:128] if given.isascii() and given.isprintable() and given else new_request_id()
    scope.setdefault("state", {})["request_id"] = name
    return name


def ids_of(scope: Scope) -> dict[str, str]:
    """The ids that every log line about the request contains."""
    trace = trace_id_of(Headers(scope=scope).get("traceparent", ""))
    return {"request_id": request_id_of(scope), **({"trace_id": trace} if trace else {})}


def naming(request_id: str, send: Send) -> Send:
    """Wraps ``send`` to add the x-request-id header to replies and handshakes."""

    async def send_named(message: Message) -> None:
        if message["type"] in ANSWERS:
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id.encode())]}
        await send(message)

    return send_named


class Timed:
    """Middleware that counts and times HTTP requests by route, and logs them and the sockets; outside the guard, so
    that it sees refusals too."""

    def __init__(self, app: ASGIApp, observer: Observer, access_log: bool) -> None:
        self._app = app
        self._observer = observer
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = ids_of(scope)
        began, status, named = time.perf_counter(), 500, naming(ids["request_id"], send)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ANSWERS:
                status = message.get("status", SWITCHED)
            await named(message)

        with logs.about(**ids):
            try:
                await self._app(scope, receive, watched)
            finally:
                self._over(scope, status, time.perf_counter() - began)

    def _over(self, scope: Scope, status: int, took: float) -> None:
        """Count and log a request, or a socket that is closed."""
        if scope["type"] == "http":
            route = getattr(scope.get("route"), "path", "") or "page"  # never the path, which anybody can invent
            self._observer.request(route, scope["method"], status, took)
        if code := scope.get("pafu.error"):  # with which the guard refused it
            self._observer.error(code)
        if self._access_log:
            client = (scope.get("client") or ("-",))[0]
            access.info("%s %s %d %.1f ms", client, scope["pafu.asked"], status, 1000 * took)
