"""clients/web/messages.d.ts: what the server says on the live socket, as types for the page's scripts."""

from __future__ import annotations

from typing import Any

import msgspec

from server.live.server_messages import SERVER_MESSAGES

PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def page_types(note: str) -> str:
    """One interface for each struct of server.live.server_messages, and the union of the messages."""
    _, schemas = msgspec.json.schema_components(SERVER_MESSAGES.values(), ref_template="{name}")
    union = " | ".join(kind.__name__ for kind in SERVER_MESSAGES.values())
    interfaces = [_interface(name, schema) for name, schema in schemas.items()]
    return "\n\n".join([f"// {note}", *interfaces, f"export type ServerMessage = {union};"]) + "\n"


def _interface(name: str, schema: dict[str, Any]) -> str:
    lines = []
    for field, of in schema["properties"].items():
        if "description" in of:
            lines.append(f"  /** {of['description']} */")
        lines.append(f"  {field}: {_type(of)};" if field in schema["required"] else f"  {field}?: {_sent(of)};")
    return "\n".join([f"export interface {name} {{", *lines, "}"])


def _sent(schema: dict[str, Any]) -> str:
    """The type of a field with a default: it is left out where it would be null."""
    return _type({"anyOf": [each for each in schema.get("anyOf", [schema]) if each != {"type": "null"}]})


def _type(schema: dict[str, Any]) -> str:
    match schema:
        case {"$ref": name}:
            return str(name)
        case {"anyOf": kinds}:
            return " | ".join(_type(kind) for kind in kinds)
        case {"enum": values}:
            return " | ".join(f'"{value}"' for value in values)
        case {"type": "array", "items": of}:
            return f"{_type(of)}[]"
        case {"type": "object", "additionalProperties": of}:
            return f"Record<string, {_type(of)}>"
    return PRIMITIVES[schema["type"]]
