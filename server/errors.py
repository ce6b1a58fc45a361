"""Every error that a caller can meet, in one table: code, HTTP status, WebSocket close code.

A message says what was wrong, what is allowed, and what to do. The wire shapes are ``{"error": {"message", "type",
"code", "param"}}`` over HTTP and ``{"type": "error", "message", "code", "param", "retryable"}`` over a WebSocket, with
``retry_after_seconds`` if known.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Any

# RFC 6455 close codes
NORMAL, UNSUPPORTED, POLICY, TOO_BIG, INTERNAL, RESTART, TRY_LATER = 1000, 1003, 1008, 1009, 1011, 1012, 1013

# OpenAI's coarse classes; other statuses are a server_error or an invalid_request_error
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_AFTER = 5.0  # seconds; the answer when no better estimate exists
HEADERS = {401: {"www-authenticate": "Bearer"}, 426: {"upgrade": "websocket", "connection": "upgrade"}}
FEW = 8  # a hint lists all known names only up to this many


@dataclass(frozen=True)
class ErrorKind:
    """One row of the table. ``close`` is the WebSocket close code used when the error ends a session."""

    code: str
    status: int
    close: int
    retryable: bool = False

    @property
    def type(self) -> str:
        """OpenAI's coarse error class."""
        if self.status in TYPES:
            return TYPES[self.status]
        return "invalid_request_error" if self.status < 500 and not self.retryable else "server_error"


ERRORS = {
    kind.code: kind
    for kind in (
        ErrorKind("invalid_message", 400, POLICY),
        ErrorKind("invalid_json", 400, POLICY),
        ErrorKind("unknown_type", 400, POLICY),
        ErrorKind("unknown_field", 400, POLICY),
        ErrorKind("missing_field", 400, POLICY),
        ErrorKind("unknown_model", 404, POLICY),
        ErrorKind("unsupported", 400, POLICY),
        ErrorKind("binary_message", 400, UNSUPPORTED),
        ErrorKind("message_too_large", 413, TOO_BIG),
        ErrorKind("start_timeout", 408, POLICY),
        ErrorKind("too_many_errors", 400, POLICY),
        ErrorKind("event_id_conflict", 409, POLICY),
        ErrorKind("interaction_failed", 400, POLICY),
        ErrorKind("too_many_interactions", 429, POLICY, retryable=True),
        ErrorKind("viewer_stalled", 408, POLICY, retryable=True),
        ErrorKind("session_rejected", 429, TRY_LATER, retryable=True),
        ErrorKind("cache_too_large", 400, POLICY),
        ErrorKind("cache_full", 400, POLICY),
        ErrorKind("unknown_session", 404, POLICY),
        ErrorKind("wrong_token", 403, POLICY),
        ErrorKind("chunk_gone", 410, POLICY),
        ErrorKind("session_taken", 409, POLICY),
        ErrorKind("session_elsewhere", 503, TRY_LATER, retryable=True),
        ErrorKind("not_the_owner", 403, POLICY),
        ErrorKind("expired", 410, POLICY, retryable=True),
        ErrorKind("preempted", 503, TRY_LATER, retryable=True),
        ErrorKind("storage_failed", 503, INTERNAL, retryable=True),
        ErrorKind("out_of_memory", 503, INTERNAL, retryable=True),
        ErrorKind("not_finite", 500, INTERNAL, retryable=True),
        ErrorKind("not_ready", 503, TRY_LATER, retryable=True),
        ErrorKind("shutting_down", 503, RESTART, retryable=True),
        ErrorKind("worker_failed", 503, RESTART, retryable=True),
        ErrorKind("generation_failed", 500, INTERNAL, retryable=True),
        ErrorKind("internal_error", 500, INTERNAL, retryable=True),
        ErrorKind("missing_key", 401, POLICY),
        ErrorKind("invalid_key", 401, POLICY),
        ErrorKind("rate_limited", 429, TRY_LATER, retryable=True),
        ErrorKind("session_limit", 429, TRY_LATER, retryable=True),
        ErrorKind("job_limit", 429, TRY_LATER, retryable=True),
        ErrorKind("ticket_limit", 429, TRY_LATER, retryable=True),
        ErrorKind("body_too_large", 413, TOO_BIG),
        ErrorKind("unsupported_media_type", 415, UNSUPPORTED),
        ErrorKind("body_timeout", 408, POLICY, retryable=True),
        ErrorKind("too_many_jobs", 429, TRY_LATER, retryable=True),
        ErrorKind("not_completed", 400, POLICY),
        ErrorKind("idempotency_conflict", 409, POLICY),
        ErrorKind("last_worker", 409, POLICY),
        ErrorKind("storage_unavailable", 503, TRY_LATER, retryable=True),
        ErrorKind("storage_full", 507, TRY_LATER, retryable=True),
        ErrorKind("host_not_allowed", 403, POLICY),
        ErrorKind("origin_not_allowed", 403, POLICY),
        ErrorKind("not_found", 404, POLICY),
        ErrorKind("upgrade_required", 426, POLICY),
        ErrorKind("method_not_allowed", 405, POLICY),
    )
}


class PafuError(Exception):
    """An error for the caller.

    ``param`` names the field at fault, if any; ``retry_after`` is the number of seconds until a retry may succeed.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = ERRORS[code]
        self.message = encodable(message)
        self.param = None if param is None else encodable(param)
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """Headers of the HTTP reply: ``retry-after`` in whole seconds, and those that the status requires."""
        headers = {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        return {**headers, **HEADERS.get(self.kind.status, {})}

    def http_body(self) -> dict[str, Any]:
        """The JSON body of the HTTP reply, in OpenAI's shape."""
        kind = self.kind
        return {"error": {"message": self.message, "type": kind.type, "code": kind.code, "param": self.param}}


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: Any) -> str:
    """A value of a caller for a message, in at most 80 characters, whatever its size."""
    text = _short.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def encodable(text: str) -> str:
    """The text with lone surrogates escaped, so that it encodes as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the closest known name, and all known names if there are few or none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    meant = [f"did you mean {close[0]!r}?"] if close else []
    listed = [f"known: {', '.join(sorted(known))}"] if len(known) <= FEW or not close else []
    return " ".join(meant + listed)
