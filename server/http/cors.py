"""Pages of other origins that the operator allows: their browsers ask first, and want the answer in headers."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = ("x-request-id", "retry-after", "openai-poll-after-ms", "content-range", "etag", "x-pafu-video-id")
PREFLIGHT_SECONDS = 600


class Cors:
    """Answers what allowed origins ask, on every route and before the key is looked at; others meet the guard."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app, self._origins = app, frozenset(origins)
        self._allowing = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = scope["type"] == "http" and Headers(scope=scope).get("origin") in self._origins
        await (self._allowing if allowed else self._app)(scope, receive, send)
