"""The HTTP contract as OpenAPI: what each route answers with, what every error looks like, which routes need a key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import __version__
from server.http.replies import ErrorReply

# Every route: no reply with such a status has another shape.
ERROR_REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request cannot be served as it is; `code` says why."},
    "5XX": {"model": ErrorReply, "description": "The server cannot serve it now; 503 may work later."},
}
DESCRIPTION = (
    "Real-time streaming video. Live video goes over the WebSocket /v1/realtime/video, which /asyncapi.json describes. "
    "Errors are `{error: {message, type, code, param}}`; with 429 and some 503 comes a Retry-After."
)


def unready(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers 503 in the same shape while no sessions are taken."""
    return {503: {"model": model, "description": "No sessions are taken now."}}


def describe(app: FastAPI, public: Collection[str]) -> None:
    """Let the app's OpenAPI name the key, and the ``public`` paths that need none to be read."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_keys(
                get_openapi(title="Pafu", version=__version__, description=DESCRIPTION, routes=app.routes), public
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_keys(document: dict[str, Any], public: Collection[str]) -> dict[str, Any]:
    bearer = {"type": "http", "scheme": "bearer", "description": "A key of `pafu keys add`, where the server has keys."}
    document.setdefault("components", {})["securitySchemes"] = {"key": bearer}
    document["security"] = [{"key": []}]
    for path, methods in document["paths"].items():
        if path in public and "get" in methods:
            methods["get"]["security"] = []
    return document
