"""A connection that hands over little at a time: what a stranger sends is parsed in Python, some 20 us for each frame
or chunk of a few bytes, and asyncio by itself reads 256 KiB of them at once while everybody else waits."""

from __future__ import annotations

import asyncio

READ_BYTES = 8 * 2**10


class SmallReads(asyncio.BufferedProtocol):
    """Mixed into a protocol with ``data_received``: no more than READ_BYTES reach it at once."""

    _buffer: bytearray | None = None

    def get_buffer(self, sizehint: int) -> bytearray:
        if self._buffer is None:
            self._buffer = bytearray(READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._buffer is not None
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError
