"""Limits socket reads to 4 KiB.

Frames and chunks are parsed in Python at about 20 us each. Asyncio reads up to 256 KiB at once, so thousands of tiny
frames from one client would block everybody else.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

READ_BYTES = 4 * 2**10
COSTLY_SECONDS = 0.005  # CPU time to parse one read; a whole request usually takes 1 ms
REST = 9  # pause after a costly read, as a multiple of its time


class SmallReads(ABC, asyncio.BufferedProtocol):
    """Protocol mixin: reads at most READ_BYTES at once and pauses after a costly read.

    So one connection never takes more than a tenth of the loop's time.
    """

    _buffer: bytearray | None = None

    @abstractmethod
    def rest(self, seconds: float) -> None:
        """Pause reading for ``seconds``."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Parse received bytes, at most READ_BYTES."""

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
