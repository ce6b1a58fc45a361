"""Everything that goes wrong is a PafuError: what the server refused, and connections that fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What a close code says when the server had no time for an error message.
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
    allowed, what to do. param: the field at fault, or None. retryable: the same request may work later.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retryable: bool = False) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.param = param
        self.retryable = retryable

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> PafuError:
        """The error in ``{"message", "code", "param", "retryable"}``, however little of it is there."""
        message = str(body.get("message") or "the server gave no reason")
        param = None if body.get("param") is None else str(body["param"])
        return cls(str(body.get("code") or "error"), message, param, bool(body.get("retryable")))

    @classmethod
    def from_http(cls, status: int, body: bytes | bytearray) -> PafuError:
        """The error of an HTTP reply, ``{"error": {...}}`` in ours, anything in a proxy's."""
        retryable = status in (429, 502, 503)
        try:
            return cls.from_wire({"retryable": retryable, **json.loads(body)["error"]})
        except (ValueError, KeyError, TypeError):
            return cls(f"http_{status}", f"the server answered with status {status}", retryable=retryable)


class ConnectionLost(PafuError):
    """The stream's connection ended before the stream did; ``close_code`` is the WebSocket's, None without one."""

    def __init__(self, close_code: int | None, reason: str) -> None:
        code = CLOSE_CODES.get(close_code or 0, "connection_lost")
        super().__init__(code, reason or "the connection ended before the stream did", retryable=True)
        self.close_code = close_code
