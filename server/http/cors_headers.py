"""CORS for the origins that the operator allows."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = ("x-request-id", "retry-after", "openai-poll-after-ms", "content-range", "etag", "x-pafu-video-id")
PREFLIGHT_SECONDS = 600


class Cors:
    """Handles CORS for allowed origins on every route, before the key is checked; other origins go to the guard."""

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
