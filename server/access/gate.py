"""Who may pass: every path needs a key unless it is on the list of public ones; asked by the guard first of all."""

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

# Probes answer without a key: an orchestrator has none, and they tell nothing but whether the server serves.
PROBES = frozenset({"/healthz", "/readyz"})
LIVE = "/v1/realtime/video"  # read as a page it only says that it is a socket
PUBLIC = PROBES | {LIVE}
READING = ("GET", "HEAD")
OPERATORS = "/v1/workers/"  # beneath it only the operator's secret counts
# A browser can put a ticket only into the subprotocols that it offers; the second is OpenAI's spelling.
TICKET_PROTOCOLS = ("pafu-ticket.", "openai-insecure-api-key.")


class Access:
    """Keys, tickets and limits of one front."""

    def __init__(self, settings: Settings, page: Iterable[str]) -> None:
        """``page``: the paths of the page's files, which hold no secret. Raises ConfigError."""
        self.keys = Keyring(settings)
        self.tickets = Tickets()
        self.limits = Limits()
        self.operator = Operator(settings.data_dir)
        self.public = PUBLIC | frozenset(page) | frozenset(settings.public_paths)

    def admit(self, scope: Scope) -> Caller:
        """The caller of a request or handshake. Raises PafuError missing_key, invalid_key or rate_limited."""
        if scope["path"].startswith(OPERATORS):
            self._check_operator(scope)
            return ANONYMOUS
        if not self.keys.required or self.is_public(scope):
            return ANONYMOUS
        caller = self._caller(scope)
        self.limits.request(caller)
        return caller

    def is_public(self, scope: Scope) -> bool:
        """Public is read only; a socket never is."""
        return scope["type"] == "http" and scope["method"] in READING and scope["path"] in self.public

    def _check_operator(self, scope: Scope) -> None:
        """Raises PafuError missing_key or invalid_key."""
        hint = f"it stands in {self.operator.path.name} in the server's data folder; pafu drain reads it there"
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
            known = "the key is not known here" if given is not None else "the ticket is unknown, used or too old"
            raise PafuError("invalid_key", f"{known}; ask the operator for a key, or mint another ticket")
        return caller


def _bearer(scope: Scope) -> str | None:
    """The key of the Authorization header. Raises PafuError invalid_key when it is of another kind."""
    header = Headers(scope=scope).get("authorization")
    if header is None:
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer":
        raise PafuError("invalid_key", "the Authorization header must be of the form Bearer KEY")
    return key.strip()


def _ticket(scope: Scope) -> str | None:
    """The ticket among the subprotocols that a WebSocket offers."""
    offered = scope.get("subprotocols", []) if scope["type"] == "websocket" else []
    for protocol in offered:
        for prefix in TICKET_PROTOCOLS:
            if protocol.startswith(prefix):
                return str(protocol.removeprefix(prefix))
    return None


def neutral_protocol(scope: Scope) -> str | None:
    """The subprotocol to answer with: the first that is no ticket, since a browser wants one of its own back."""
    offered = scope.get("subprotocols", [])
    return next((protocol for protocol in offered if not protocol.startswith(TICKET_PROTOCOLS)), None)
