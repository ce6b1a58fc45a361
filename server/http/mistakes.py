"""What nobody foresaw: logged once with its traceback, and answered in the shape of every other error."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import INTERNAL, PafuError

log = logging.getLogger("pafu")


def mistake(request_id: str) -> PafuError:
    """What the caller hears of it, with the name under which it is in the log."""
    return PafuError("internal_error", f"the server made a mistake; it is in its log, under request {request_id!r}")


class Mistakes:
    """An exception that reaches it ends the request, and no more than that; ``count`` hears the error's code."""

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
            error = mistake(scope.get("state", {}).get("request_id", ""))
            self._count(error.kind.code)
            if not begun:
                await answer(scope, send, error)
            elif begun == "websocket.accept":
                await send({"type": "websocket.close", "code": INTERNAL, "reason": error.kind.code})
            # else an answer has begun, and breaks off


async def answer(scope: Scope, send: Send, error: PafuError) -> None:
    """The error's status and JSON, to an HTTP request or as the refusal of a WebSocket."""
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    body = json.dumps(error.http_body()).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": f"{prefix}.start", "status": error.kind.status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})
