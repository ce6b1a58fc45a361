"""The Python client's type of a chunk's figures, written from the struct that the server sends: the client imports no
server.

``python -m server.http.client_types FILE`` writes it to clients/python/pafu_client/chunk_stats.py; a test compares.
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec

from model.chunk_stats import CameraView, KeptTokens
from server.ipc.messages import ServedStats

HEAD = '''"""A chunk's figures as they come over the wire. Made by `python -m server.http.client_types`; do not edit."""

from __future__ import annotations

from typing import TypedDict
'''
NAMES: dict[type[msgspec.Struct], str] = {
    CameraView: "CameraView",
    KeptTokens: "KeptTokens",
    ServedStats: "ChunkStats",
}  # what is nested comes first
DOCS: dict[type[msgspec.Struct], str] = {
    CameraView: "Where the next chunk begins.",
    KeptTokens: "What the cache holds: for each of ``latents`` a picture of rows x columns bytes, base64.",
    ServedStats: "What a chunk cost and what the cache holds after it; an older server may leave fields out.",
}


def text() -> str:
    return HEAD + "".join(_typed_dict(kind) for kind in NAMES)


def _typed_dict(kind: type[msgspec.Struct]) -> str:
    fields = [
        f"    {field.encode_name}: {_name(field.type)}{_comment(field.type)}" for field in msgspec.structs.fields(kind)
    ]
    return "\n".join(
        ["", "", f"class {NAMES[kind]}(TypedDict, total=False):", f'    """{DOCS[kind]}"""', "", *fields, ""]
    )


def _name(annotation: Any) -> str:
    """The type as JSON brings it; None is never sent."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _name(parts[0])
    if origin in (types.UnionType, typing.Union):
        return " | ".join(_name(part) for part in parts if part is not type(None))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_name, parts))}]"
    return "str" if annotation is bytes else NAMES.get(annotation, annotation.__name__)


def _comment(annotation: Any) -> str:
    said = [each.description for each in getattr(annotation, "__metadata__", ()) if isinstance(each, msgspec.Meta)]
    return f"  # {said[0].rstrip('.')}" if said and said[0] else ""


def main() -> None:
    Path(sys.argv[1]).write_text(text())


if __name__ == "__main__":
    main()
