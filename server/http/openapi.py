"""The OpenAPI document: replies of each route, the shape of errors, and which routes need a key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import __version__
from server.access.gate import BY_TOKEN
from server.http.replies import ErrorReply

# The same for every route.
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is refused; `code` says why."},
    "5XX": {
        "model": ErrorReply,
        "description": "The server failed or cannot serve the request now; after 503, retry later.",
    },
}
DESCRIPTION = (
    "Real-time streaming video. Live video uses the WebSocket /v1/realtime/video, which /asyncapi.json describes. "
    "Errors are `{error: {message, type, code, param}}`; 429 and some 503 replies have a Retry-After header."
)


def unready(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers 503 with the same model while the server accepts no sessions."""
    return {503: {"model": model, "description": "The server accepts no sessions now."}}


def describe(app: FastAPI, public: Collection[str]) -> None:
    """Add the key scheme to the app's OpenAPI document; GET on ``public`` paths needs no key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_keys(
                get_openapi(title="Pafu", version=__version__, description=DESCRIPTION, routes=app.routes), public
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_keys(document: dict[str, Any], public: Collection[str]) -> dict[str, Any]:
    bearer = {
        "type": "http",
        "scheme": "bearer",
        "description": "A key from `pafu keys add`, if the server requires keys.",
    }
    document.setdefault("components", {})["securitySchemes"] = {"key": bearer}
    document["security"] = [{"key": []}]
    for path, methods in document["paths"].items():
        if (path in public or path.startswith(BY_TOKEN)) and "get" in methods:
            methods["get"]["security"] = []
    return document
