"""Where a command writes its result: a file, stdout ("-") or another pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

VIDEO = ("MP4", ".mp4", ".m4v", "")  # format, then allowed suffixes
PICTURE = ("PNG", ".png")
FIGURES = ("JSON", ".json", "")
STDOUT = "-"


class OutputError(ValueError):
    """The output cannot be written; the message says why."""


def check(output: str, kind: tuple[str, ...] = VIDEO) -> None:
    """Raises OutputError if the output cannot be written or its suffix means another format."""
    path = Path(output)
    if is_pipe(output):
        return
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
    name, *suffixes = kind
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write {path}: the format is {name}; name it {path.with_suffix(suffixes[0]).name!r}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")


def is_pipe(output: str) -> bool:
    """Whether the output is not seekable: stdout, a FIFO or a device."""
    return output == STDOUT or (Path(output).exists() and not (Path(output).is_file() or Path(output).is_dir()))


@contextlib.contextmanager
def opened(output: str) -> Iterator[IO[bytes]]:
    """Open the output for writing; stdout stays open."""
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with Path(output).open("wb") as file:
        yield file
