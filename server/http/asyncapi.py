"""The live protocol as an AsyncAPI document, generated from the models that the server parses and the structs it sends.

``python -m server.http.asyncapi FILE`` writes it; a test compares it with the copy docs/asyncapi.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server import __version__
from server.access.gate import TICKET_PROTOCOLS
from server.errors import ERRORS
from server.live.client_messages import CLIENT_MESSAGES
from server.live.server_messages import SERVER_MESSAGES, ServerMessage

PATH = "/v1/realtime/video"
SCHEMA = "#/components/schemas/{name}"
CHUNK = "video.chunk"  # the binary message, which has no type on the wire


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document. Operations are from the server's point of view, as AsyncAPI requires."""
    client, server = list(CLIENT_MESSAGES), [*SERVER_MESSAGES, CHUNK]
    received: list[type[BaseModel]] = list(CLIENT_MESSAGES.values())
    _, parsed = models_json_schema([(m, "validation") for m in received], ref_template=SCHEMA.format(name="{model}"))
    _, spoken = msgspec.json.schema_components(SERVER_MESSAGES.values(), ref_template=SCHEMA)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Pafu live video", "version": __version__, "description": _description()},
        "channels": {
            "live": {
                "address": PATH,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in (*client, *server)},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": {
            "receive": _operation("receive", client),
            "send": _operation("send", server),
        },
        "components": {
            "messages": {
                **{name: _message(name, model) for name, model in {**CLIENT_MESSAGES, **SERVER_MESSAGES}.items()},
                CHUNK: {
                    "name": CHUNK,
                    "summary": "The bytes of one chunk, immediately after its video.chunk_metadata.",
                    "contentType": "application/octet-stream",
                    "payload": {"type": "string", "format": "binary"},
                },
            },
            "schemas": {**parsed["$defs"], **spoken},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "x-errors": {
            code: {"http": kind.status, "close": kind.close, "retryable": kind.retryable}
            for code, kind in sorted(ERRORS.items())
        },
    }


def text() -> str:
    """The document as JSON text."""
    return json.dumps(document(), indent=1, sort_keys=False) + "\n"


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    messages = [{"$ref": f"#/channels/live/messages/{name}"} for name in names]
    return {"action": action, "channel": {"$ref": "#/channels/live"}, "messages": messages}


def _message(name: str, model: type[BaseModel] | type[ServerMessage]) -> dict[str, Any]:
    schema = {"$ref": SCHEMA.format(name=model.__name__)}
    return {"name": name, "contentType": "application/json", "payload": schema}


def _description() -> str:
    return (
        "Control messages are JSON text. Exactly one binary message follows each video.chunk_metadata. If the server "
        "requires keys, the handshake needs Authorization: Bearer KEY, or, from a browser, a ticket from POST "
        f"/v1/realtime/client_secrets as the additional subprotocol {TICKET_PROTOCOLS[0]}TICKET. A refused handshake "
        "gets an HTTP reply with the usual error body. x-errors lists every code with its statuses."
    )


def main() -> None:
    Path(sys.argv[1]).write_text(text())


if __name__ == "__main__":
    main()
