"""Generates clients/js/client/messages.d.ts: types of the live messages for the JavaScript client and the page."""

from __future__ import annotations

from typing import Any

import msgspec

from server.live.client_messages import CLIENT_MESSAGES
from server.live.server_messages import SERVER_MESSAGES

PRIMITIVES = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def page_types(note: str) -> str:
    """One interface per server struct and client message, and the unions of all messages.

    The sources are server.live.server_messages and server.live.client_messages, as for the AsyncAPI document.
    """
    _, schemas = msgspec.json.schema_components(SERVER_MESSAGES.values(), ref_template="{name}")
    asked = {kind.__name__: _whole(kind.model_json_schema()) for kind in CLIENT_MESSAGES.values()}
    unions = [_union("ServerMessage", SERVER_MESSAGES), _union("ClientMessage", CLIENT_MESSAGES)]
    interfaces = [_interface(name, schema) for name, schema in (*schemas.items(), *asked.items())]
    return "\n\n".join([f"// {note}", *interfaces, *unions]) + "\n"


def _union(name: str, kinds: dict[str, Any]) -> str:
    return f"export type {name} = {' | '.join(kind.__name__ for kind in kinds.values())};"


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions inlined, since their names are unique only within one message."""
    parts = schema.pop("$defs", {})

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            found = parts.get(str(value.get("$ref", "")).rpartition("/")[2])
            return put(found) if found else {name: put(each) for name, each in value.items()}
        return [put(each) for each in value] if isinstance(value, list) else value

    return dict(put(schema))


def _interface(name: str, schema: dict[str, Any]) -> str:
    lines = []
    for field, of in schema["properties"].items():
        if "description" in of:
            lines.append(f"  /** {of['description']} */")
        needed = field in schema.get("required", ())
        lines.append(f"  {field}: {_type(of)};" if needed else f"  {field}?: {_sent(of)};")
    return "\n".join([f"export interface {name} {{", *lines, "}"])


def _sent(schema: dict[str, Any]) -> str:
    """The type of an optional field, which is omitted instead of null."""
    return _type({"anyOf": [each for each in schema.get("anyOf", [schema]) if each != {"type": "null"}]})


def _type(schema: dict[str, Any]) -> str:
    match schema:
        case {"$ref": name}:
            return str(name)
        case {"anyOf": kinds}:
            return " | ".join(_type(kind) for kind in kinds)
        case {"enum": [*values]}:
            return " | ".join(f'"{value}"' for value in values)
        case {"type": "array", "items": of}:
            return f"{_type(of)}[]"
        case {"const": value}:
            return f'"{value}"'
        case {"type": "object", "properties": fields}:
            needed = schema.get("required", ())
            rows = (
                f"{name}: {_type(of)}" if name in needed else f"{name}?: {_sent(of)}" for name, of in fields.items()
            )
            return f"{{ {'; '.join(rows)} }}"
        case {"type": "object", "additionalProperties": of}:
            return f"Record<string, {_type(of)}>"
    return PRIMITIVES[schema["type"]] if "type" in schema else "unknown"
