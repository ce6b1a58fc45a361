"""Where a command writes what it makes: a file, standard output ("-"), or another pipe that is fed as it comes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

VIDEO = ("MP4", ".mp4", ".m4v", "")  # what is written, and the names that say so
PICTURE = ("PNG", ".png")
FIGURES = ("JSON", ".json", "")
STDOUT = "-"


class OutputError(ValueError):
    """Nothing can be written there; the message says why."""


def check(output: str, kind: tuple[str, ...] = VIDEO) -> None:
    """Raises OutputError for a place that cannot be written, or a name that promises another format."""
    path = Path(output)
    if is_pipe(output):
        return
    if path.is_dir():
        raise OutputError(f"cannot write {path}: that is a folder; name a file in it")
    name, *suffixes = kind
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"cannot write {path}: this is {name}; call it {path.with_suffix(suffixes[0]).name!r}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist")


def is_pipe(output: str) -> bool:
    """Whether bytes go there as they come, since nobody can go back in it: standard output, a FIFO, a device."""
    return output == STDOUT or (Path(output).exists() and not (Path(output).is_file() or Path(output).is_dir()))


@contextlib.contextmanager
def opened(output: str) -> Iterator[IO[bytes]]:
    """The place, to be written; standard output stays open."""
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with Path(output).open("wb") as file:
        yield file
