"""A connection that tests can cut, losing bytes in flight, as a network failure does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Cable:
    """Sits between client and server; cut by a test, or in the middle of a chunk once ``bytes_left`` are used up."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._ends: list[asyncio.StreamWriter] = []
        self.bytes_left: float = float("inf")
        self.plugged = True
        self.used = 0
        self.url = ""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.plugged:
            return writer.transport.abort()
        self.used += 1
        back, forth = await asyncio.open_connection("127.0.0.1", self.port)
        self._ends += [writer, forth]
        await asyncio.gather(self._copy(reader, forth, False), self._copy(back, writer, True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1024):
                self.bytes_left -= len(data) * counted
                if self.bytes_left < 0:
                    self.bytes_left = float("inf")
                    return self.cut()
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()


@contextlib.asynccontextmanager
async def cable_to(port: int) -> AsyncIterator[Cable]:
    """A cable to the server at this port; ``url`` is the cable's own address."""
    cable = Cable(port)
    listening = await asyncio.start_server(cable.carry, "127.0.0.1", 0)
    cable.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield cable
    finally:
        cable.cut()
        listening.close()
