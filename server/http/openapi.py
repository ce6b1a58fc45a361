"""The OpenAPI document: replies of each route, the shape of errors, and which routes need a key."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import __version__
from server.access.gate import BY_TOKEN, OPERATORS
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


def describe(app: FastAPI, public: Collection[str], keys: bool) -> None:
    """Add to the app's OpenAPI document what each route asks for.

    ``keys``: whether callers need one; GET on ``public`` paths never does.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title="Pafu", version=__version__, description=DESCRIPTION, routes=app.routes)
            app.openapi_schema = _with_secrets(document, public, keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_secrets(document: dict[str, Any], public: Collection[str], keys: bool) -> dict[str, Any]:
    document.setdefault("components", {})["securitySchemes"] = {
        "key": _bearer("A key from `pafu keys add`, if the server requires keys."),
        "operator": _bearer("The secret in `admin.token` in the server's data folder, always."),
    }
    document["security"] = [{"key": []}] if keys else []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith(OPERATORS):
                operation["security"] = [{"operator": []}]
            elif method == "get" and (path in public or path.startswith(BY_TOKEN)):
                operation["security"] = []
    return document


def _bearer(description: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": description}
