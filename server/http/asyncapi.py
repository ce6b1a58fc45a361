"""The live socket's contract as an AsyncAPI document, made from the models that the code parses and the structs that it
sends.

``python -m server.http.asyncapi FILE`` writes it. docs/asyncapi.json is its copy; a test compares the two.
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
CHUNK = "video.chunk"  # not a type on the wire: the binary message


def document() -> dict[str, Any]:
    """AsyncAPI 3.0. The operations are named from the server's side, as AsyncAPI wants: it receives and sends."""
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
                    "summary": "The bytes of one chunk, right behind its video.chunk_metadata.",
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
    return json.dumps(document(), indent=1, sort_keys=False) + "\n"


def _operation(action: str, names: list[str]) -> dict[str, Any]:
    messages = [{"$ref": f"#/channels/live/messages/{name}"} for name in names]
    return {"action": action, "channel": {"$ref": "#/channels/live"}, "messages": messages}


def _message(name: str, model: type[BaseModel] | type[ServerMessage]) -> dict[str, Any]:
    schema = {"$ref": SCHEMA.format(name=model.__name__)}
    return {"name": name, "contentType": "application/json", "payload": schema}


def _description() -> str:
    return (
        "JSON text is control. Each video.chunk_metadata is followed by exactly one binary message. Where the server "
        "has keys, the handshake needs Authorization: Bearer KEY, or, from a browser, a ticket of POST "
        f"/v1/realtime/client_secrets as the subprotocol {TICKET_PROTOCOLS[0]}TICKET beside any other; handshakes are "
        "refused over HTTP, with the same error body. x-errors lists every code with its statuses."
    )


def main() -> None:
    Path(sys.argv[1]).write_text(text())


if __name__ == "__main__":
    main()
