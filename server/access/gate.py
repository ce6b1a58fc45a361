"""Authentication: every path needs a key unless it is public. The guard calls this for every request."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from server.access.keys import Keyring
from server.access.limits import ANONYMOUS, Caller, Limits
from server.access.operator import Operator
from server.access.tickets import Tickets
from server.config import Settings
from server.errors import PafuError

# Probes need no key: orchestrators have none, and the replies only say whether the server serves.
PROBES = frozenset({"/healthz", "/readyz"})
LIVE = "/v1/realtime/video"  # a plain GET only gets the error upgrade_required
PUBLIC = PROBES | {LIVE}
READING = ("GET", "HEAD")
BY_TOKEN = "/v1/live/"  # paths that contain a token (server.live.hls_output)
OPERATORS = "/v1/workers/"  # paths that require the operator's secret
# Browsers can send a ticket only as a WebSocket subprotocol; the second prefix is OpenAI's.
TICKET_PROTOCOLS = ("pafu-ticket.", "openai-insecure-api-key.")


class Access:
    """Keys, tickets and limits of one front."""

    def __init__(self, settings: Settings, page: Iterable[str]) -> None:
        """``page``: paths of the page's files, which are public. Raises ConfigError."""
        self.keys = Keyring(settings)
        self.tickets = Tickets()
        self.limits = Limits()
        self.operator = Operator(settings.data_dir)
        self.public = PUBLIC | frozenset(page) | frozenset(settings.public_paths)

    def admit(self, scope: Scope) -> Caller:
        """Identify the caller of a request or handshake. Raises PafuError missing_key, invalid_key or rate_limited."""
        if scope["path"].startswith(OPERATORS):
            self._check_operator(scope)
            return ANONYMOUS
        if not self.keys.required or self.is_public(scope):
            return ANONYMOUS
        caller = self._caller(scope)
        self.limits.request(caller)
        return caller

    def is_public(self, scope: Scope) -> bool:
        """Whether no key is needed: only for reading public paths or paths with a token, never for a WebSocket."""
        reads = scope["type"] == "http" and scope["method"] in READING
        return reads and (scope["path"] in self.public or scope["path"].startswith(BY_TOKEN))

    def _check_operator(self, scope: Scope) -> None:
        """Raises PafuError missing_key or invalid_key."""
        hint = f"it is in {self.operator.path.name} in the server's data folder, where pafu drain reads it"
        if (given := _bearer(scope)) is None:
            raise PafuError("missing_key", f"this path needs the operator's secret as Authorization: Bearer; {hint}")
        if not self.operator.known_by(given):
            raise PafuError("invalid_key", f"this is not the operator's secret; {hint}")

    def _caller(self, scope: Scope) -> Caller:
        given = _bearer(scope)
        ticket = _ticket(scope)
        if given is None and ticket is None:
            raise PafuError("missing_key", "this server needs an API key; send the header Authorization: Bearer KEY")
        caller = self.keys.caller(given) if given is not None else self.tickets.redeem(ticket or "")
        if caller is None or not self.keys.stands(caller):
            known = "the key is unknown" if given is not None else "the ticket is unknown, used or expired"
            raise PafuError("invalid_key", f"{known}; ask the operator for a key, or mint another ticket")
        return caller


def _bearer(scope: Scope) -> str | None:
    """The key in the Authorization header; None without one. Raises PafuError invalid_key for another scheme."""
    header = Headers(scope=scope).get("authorization")
    if header is None:
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer":
        raise PafuError("invalid_key", "the Authorization header must be of the form Bearer KEY")
    return key.strip()


def _ticket(scope: Scope) -> str | None:
    """The ticket among a WebSocket's offered subprotocols, if any."""
    offered = scope.get("subprotocols", []) if scope["type"] == "websocket" else []
    for protocol in offered:
        for prefix in TICKET_PROTOCOLS:
            if protocol.startswith(prefix):
                return str(protocol.removeprefix(prefix))
    return None


def neutral_protocol(scope: Scope) -> str | None:
    """The subprotocol to select: the first that is not a ticket, since browsers require one of those they offered."""
    offered = scope.get("subprotocols", [])
    return next((protocol for protocol in offered if not protocol.startswith(TICKET_PROTOCOLS)), None)
