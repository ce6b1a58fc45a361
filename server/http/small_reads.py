"""A connection that hands over little at a time: what a stranger sends is parsed in Python, some 20 us for each frame
or chunk of a few bytes, and asyncio by itself reads 256 KiB of them at once while everybody else waits."""

from __future__ import annotations

import asyncio
import time

READ_BYTES = 4 * 2**10
COSTLY_SECONDS = 0.005  # of a read; 1 ms is usual for a whole request
REST = 9


class SmallReads(asyncio.BufferedProtocol):
    """Mixed into a protocol with ``data_received``: no more than READ_BYTES reach it at once, and one whose bytes are
    costly to parse rests so long that it has no more than a tenth of the loop's time."""

    _buffer: bytearray | None = None

    def rest(self, seconds: float) -> None:
        """Read no more for so long."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> bytearray:
        if self._buffer is None:
            self._buffer = bytearray(READ_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._buffer is not None
        began = time.thread_time()
        self.data_received(bytes(self._buffer[:nbytes]))
        if (took := time.thread_time() - began) > COSTLY_SECONDS:
            self.rest(took * REST)

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError
