"""Reads of at most 4 KiB. What a stranger sends is parsed in Python, about 20 us for each frame or chunk; asyncio by
itself reads 256 KiB at once, and everybody else would wait while thousands of tiny frames are parsed."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

READ_BYTES = 4 * 2**10
COSTLY_SECONDS = 0.005  # of a read; 1 ms is usual for a whole request
REST = 9  # pause after a costly read, in times of what it took


class SmallReads(ABC, asyncio.BufferedProtocol):
    """Mixed into a protocol: it gets at most READ_BYTES at once, and pauses after a read that was costly to parse, so
    that one connection never takes more than a tenth of the loop's time."""

    _buffer: bytearray | None = None

    @abstractmethod
    def rest(self, seconds: float) -> None:
        """Read no more for so long."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Parse what came, at most READ_BYTES."""

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
