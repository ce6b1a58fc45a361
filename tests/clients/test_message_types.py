"""Promise: the Python client reads only fields that the server sends, and understands every message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pafu_client import messages
from pafu_client.errors import PafuError

from server.live import server_messages

READERS = {
    messages.VideoStart: server_messages.VideoStart,
    messages.ChunkMetadata: server_messages.ChunkMetadata,
    messages.SessionQueued: server_messages.SessionQueued,
    messages.SessionDone: server_messages.SessionDone,
    PafuError: server_messages.Error,
}
EXAMPLES: dict[Any, Any] = {int: 3, bool: True, float: 0.5, str: "text"}


class Recorder(dict[str, Any]):
    """A message that records which fields are read."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_the_client_reads_is_what_the_server_sends(reader) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(READERS[reader])}
    body = Recorder({name: EXAMPLES[kind] for name, kind in fields.items() if kind in EXAMPLES})
    read = reader.from_wire(body)
    assert body.asked, "it reads something"
    assert body.asked <= set(fields), "the server has no such field"
    same = [name for name in vars(read) if name in body and fields[name] in EXAMPLES]
    assert same and all(getattr(read, name) == body[name] for name in same)
