"""Unexpected exceptions: logged once with a traceback, answered with the usual error body."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import INTERNAL, PafuError

log = logging.getLogger("pafu")


def internal_error(request_id: str) -> PafuError:
    """The error for the caller, with the request id under which the log has the traceback."""
    return PafuError("internal_error", f"internal server error; see the server's log for request {request_id!r}")


class UnexpectedErrors:
    """Middleware that limits an unexpected exception to its request; ``count`` receives the error code."""

    def __init__(self, app: ASGIApp, count: Callable[[str], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ""

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("%s %.200r failed", scope.get("method", "WebSocket"), scope["path"])
            error = internal_error(scope.get("state", {}).get("request_id", ""))
            self._count(error.kind.code)
            if not begun:
                await answer(scope, send, error)
            elif begun == "websocket.accept":
                await send({"type": "websocket.close", "code": INTERNAL, "reason": error.kind.code})
            # otherwise a reply has already started and is cut off


async def answer(scope: Scope, send: Send, error: PafuError) -> None:
    """Send the error's status and JSON, to an HTTP request or an unaccepted WebSocket."""
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    body = json.dumps(error.http_body()).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": f"{prefix}.start", "status": error.kind.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})
