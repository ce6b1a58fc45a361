"""Forward a worker's stderr and remember its last line, which usually says why the worker exited.

With JSON logs, lines that no logger wrote (from faulthandler or a C library) are wrapped in JSON too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

from server.telemetry import logs

READ_BYTES = 2**16
MOST_BYTES = 2**16  # of the end of the output that is kept
MOST_SHOWN = 300  # characters of the last line


class WorkerStderr:
    """Reads one process's stderr to its end."""

    def __init__(self, stream: asyncio.StreamReader, in_json: bool) -> None:
        self._tail = self._line = b""  # the end of the output; an incomplete line
        self._in_json = in_json
        self._reading = asyncio.create_task(self._pass_on(stream), name="worker stderr")

    async def line(self, within: float) -> str:
        """The last line, empty without output. Waits at most ``within`` seconds for the pipe to close."""
        await asyncio.wait({self._reading}, timeout=within)  # a child of the process may hold the pipe open: read on
        return last_line(self._tail.decode(errors="replace"))

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        while said := await stream.read(READ_BYTES):
            self._tail = (self._tail + said)[-MOST_BYTES:]
            _tell(self._whole_lines(said) if self._in_json else said)
        if self._line:
            _tell(logs.enveloped(self._line, "worker"))

    def _whole_lines(self, said: bytes) -> bytes:
        *lines, self._line = (self._line + said).split(b"\n")
        if len(self._line) > MOST_BYTES:
            lines, self._line = [*lines, self._line], b""
        return b"".join(logs.enveloped(line + b"\n", "worker") for line in lines if line.strip())


def last_line(said: str) -> str:
    """The last line of a text log, or the last message of a JSON log (from ``error``, its traceback, if present)."""
    line = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict):
            line = last_line(str(entry.get("error") or entry.get("message") or ""))
    return "".join(letter if letter.isprintable() else "?" for letter in line[:MOST_SHOWN])


def _tell(data: bytes) -> None:
    with contextlib.suppress(OSError):  # stderr is closed; keep reading so that the worker does not block
        sys.stderr.flush()
        _write_all(2, data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
