"""All failures are PafuErrors: refusals by the server, and connections that fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What a close code means if the server could not send an error message.
CLOSE_CODES = {
    1001: "shutting_down",
    1008: "session_rejected",
    1009: "message_too_large",
    1011: "internal_error",
    1012: "server_restart",
    1013: "server_busy",
}


class PafuError(Exception):
    """A refusal or a failure.

    code: stable name ("unknown_model", "worker_failed", "connect_failed" ...). message: what was wrong, what is
    allowed, what to do. param: the field at fault, or None. retryable: the same request may succeed later.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retryable: bool = False) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> PafuError:
        """The error in ``{"message", "code", "param", "retryable"}``; all fields are optional."""
        message = str(body.get("message") or "the server gave no reason")
        param = None if body.get("param") is None else str(body["param"])
        return cls(str(body.get("code") or "error"), message, param, bool(body.get("retryable")))

    @classmethod
    def from_http(cls, status: int, body: bytes | bytearray) -> PafuError:
        """The error of an HTTP reply: ``{"error": {...}}`` from Pafu, or any body from a proxy."""
        retryable = status in (429, 502, 503)
        try:
            return cls.from_wire({"retryable": retryable, **json.loads(body)["error"]})
        except (ValueError, KeyError, TypeError):
            return cls(f"http_{status}", f"the server answered with status {status}", retryable=retryable)


class ConnectionLost(PafuError):
    """The connection ended before the stream; ``close_code`` is the WebSocket's close code, or None."""

    def __init__(self, close_code: int | None, reason: str) -> None:
        code = CLOSE_CODES.get(close_code or 0, "connection_lost")
        super().__init__(code, reason or "the connection ended before the stream did", retryable=True)
        self.close_code = close_code
