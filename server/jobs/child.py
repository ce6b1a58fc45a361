"""Runs work on a job's files in a child process: it reads the order from stdin and writes the answer to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

from server.jobs.files import FilesUnavailable
from server.jobs.job import DISK_FULL
from server.process import leave_signals_to_the_front

UNAVAILABLE = 74  # exit status for storage failures other than DISK_FULL (EX_IOERR)
Kind = TypeVar("Kind", bound=msgspec.Struct)


def run(order: type[Kind], work: Callable[[Kind], bytes]) -> int:
    """Read an ``order`` and do its ``work``. The exit status gives the kind of failure, stderr the message."""
    leave_signals_to_the_front()
    os.nice(5)  # live viewers first
    try:
        answer = work(msgspec.json.decode(sys.stdin.buffer.read(), type=order))
    except FilesUnavailable as error:
        print(error, file=sys.stderr)
        return DISK_FULL if error.full else UNAVAILABLE
    sys.stdout.buffer.write(answer)
    return 0
