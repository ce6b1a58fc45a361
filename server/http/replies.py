"""Error replies over HTTP: ``{"error": {"message", "type", "code", "param"}}``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from server.errors import PafuError
from server.http.safe_headers import BARE

CLIENT_CLOSED = 499  # nginx's status for a client that closed the connection
# Codes for errors that the framework raises.
CODES = {
    426: "upgrade_required",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    413: "body_too_large",
}


class ErrorDetail(BaseModel):
    """``message`` says what was wrong, what is allowed and what to do; ``param`` names the field at fault."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorReply(BaseModel):
    """The body of every error reply."""

    error: ErrorDetail


def error_reply(error: PafuError) -> JSONResponse:
    """The JSON reply for an error."""
    return JSONResponse(error.http_body(), error.kind.status, error.headers())


def early(status: int, message: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of an error before there is a request: invalid HTTP or an invalid handshake."""
    error = PafuError(CODES.get(status, "internal_error" if status >= 500 else "invalid_message"), message)
    body = json.dumps(error.http_body()).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    return named | BARE | error.headers() | {"x-request-id": new_request_id()}, body


def new_request_id() -> str:
    """A random request id."""
    return f"req_{secrets.token_hex(8)}"


def allowed(request: Request) -> str:
    """All methods of the requested path; Starlette itself lists only those of the first matching route."""
    path = getattr(request.scope.get("route"), "path", "")
    methods = {method.upper() for method in request.app.openapi()["paths"].get(path, {})} or {"GET"}  # a file
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def add_error_handlers(app: FastAPI, count: Callable[[str], None]) -> None:
    """Answer deliberate errors (for others see server.http.unexpected); ``count`` receives the error code."""

    def reply(error: PafuError, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
        count(error.kind.code)
        return JSONResponse(error.http_body(), status or error.kind.status, {**(headers or {}), **error.headers()})

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        named = PafuError(CODES.get(error.status_code, "invalid_message"), message)
        headers = {"allow": allowed(request)} if error.status_code == 405 else error.headers
        return reply(named, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return reply(PafuError("invalid_message", f"{param or 'the body'}: {first['msg']}", param or None))

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: Exception) -> Response:
        """The client disconnected while sending the body, so nobody reads the reply."""
        return Response(status_code=CLIENT_CLOSED)

    @app.exception_handler(PafuError)
    async def named_error(_: Request, error: PafuError) -> JSONResponse:
        return reply(error)
