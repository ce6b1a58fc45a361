"""Limits socket reads to what can be parsed in a moment.

Frames and chunks are parsed in Python at about 20 us each. Asyncio reads up to 256 KiB at once, so thousands of tiny
frames from one client would block everybody else.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import ClassVar

FEWEST_BYTES, FIRST_BYTES, READ_BYTES = 128, 512, 4 * 2**10  # at once: at least, from a new client, at most
COSTLY_SECONDS = 0.002  # CPU time to parse one read; a whole request usually takes less
CHEAP_SECONDS = 0.0005
REST = 9  # pause after a costly read, as a multiple of its time
MOST_REST = 10.0


class SmallReads(ABC, asyncio.BufferedProtocol):
    """Protocol mixin: reads less at once from who is costly to parse, and pauses after a costly read.

    Pauses are taken in turn, so all costly connections together never take more than a tenth of the loop's time.
    """

    _buffer: bytearray | None = None
    _size = FIRST_BYTES
    _turns_end: ClassVar[float] = 0.0  # when the pauses of all connections are over

    @abstractmethod
    def rest(self, seconds: float) -> None:
        """Pause reading for ``seconds``."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Parse received bytes, at most READ_BYTES."""

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            self._buffer = bytearray(READ_BYTES)
        return memoryview(self._buffer)[: self._size]

    def buffer_updated(self, nbytes: int) -> None:
        assert self._buffer is not None
        began = time.thread_time()
        self.data_received(bytes(self._buffer[:nbytes]))
        took = time.thread_time() - began
        if took > COSTLY_SECONDS:
            self._size = max(FEWEST_BYTES, self._size // 2)
            self.rest(_turn(REST * took))
        elif took < CHEAP_SECONDS and nbytes == self._size:
            self._size = min(READ_BYTES, 2 * self._size)

    def eof_received(self) -> None:
        pass


def _turn(seconds: float) -> float:
    """From now to the end of a pause that begins when those of others are over."""
    now = time.monotonic()
    SmallReads._turns_end = min(max(now, SmallReads._turns_end) + seconds, now + MOST_REST)
    return SmallReads._turns_end - now
