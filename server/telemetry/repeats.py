"""Bounds how often the log says the same, so that strangers cannot fill the disk with it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

SECONDS = 60.0
MOST = 1000  # lines of one kind in SECONDS
OF_STRANGERS = ("uvicorn.error", "asyncio")  # their lines tell of bytes that anybody may send: one of a kind is enough
COMPLETE = "pafu.access"  # a line for each request, if the operator asks for it
MOST_KINDS = 1000


@dataclass
class Said:
    """One kind of line: when it was last written after a pause, and how often it came since."""

    since: float
    times: int = 1


class Repeats(logging.Filter):
    """Drops lines beyond the most of their kind; the next line of the kind tells how many.

    A kind is a logger, a level, the text before its values are put in, and the type of exception.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[object, ...], Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == COMPLETE:
            return True
        kind = (record.name, record.levelno, str(record.msg)[:200], record.exc_info and record.exc_info[0])
        most = 1 if record.name in OF_STRANGERS else MOST
        now, said = time.monotonic(), self._said.get(kind)
        if said is not None and now - said.since < SECONDS:
            said.times += 1
            return said.times <= most
        if len(self._said) >= MOST_KINDS:
            self._said.clear()
        self._said[kind] = Said(now)
        if said is not None and said.times > most:
            record.msg = f"{record.getMessage()} (and {said.times - most} times before, not logged)"
            record.args = ()
        return True
