"""``pafu watch``: a live stream of any server into a file or a pipe, through the public client."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class WatchError(RuntimeError):
    """The stream could not be opened or written; the message says why."""


def watch(url: str, prompt: str, output: str, seconds: float | None, seed: int | None, console: Console) -> str:
    """Write the stream to ``output`` ("-" is standard output) as it comes; a line that sums it up. Raises WatchError.

    A pipe is fed in real time, as a player wants it; a file as fast as the server makes it.
    """
    try:
        from pafu_client import Options, PafuError
        from pafu_client.sync import connect, models
    except ImportError:
        raise WatchError("pafu watch needs the client package: pip install ./clients/python") from None
    options: Options = {"prompt": prompt, "realtime": output == "-"}
    try:
        (model, *_) = models(url)
        if seconds is not None:
            options["num_frames"] = max(1, round(seconds * model["fps"]))
        if seed is not None:
            options["seed"] = seed
        with connect(url, **options) as stream, sink(output) as file, progress_bar(console) as progress:
            task = progress.add_task("pictures", total=options.get("num_frames"))
            for chunk in stream:
                file.write(chunk.data)
                file.flush()
                progress.update(task, advance=chunk.metadata.num_frames)
    except PafuError as error:
        raise WatchError(error.message) from None
    except OSError as error:
        raise WatchError(f"cannot write {output}: {error.strerror}") from None
    return f"{output}: {int(progress.tasks[0].completed)} pictures, seed {stream.init.config.get('seed')}"


@contextlib.contextmanager
def sink(output: str) -> Iterator[IO[bytes]]:
    """The file to write, or standard output."""
    if output == "-":
        yield sys.stdout.buffer
        return
    with Path(output).open("wb") as file:
        yield file


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
