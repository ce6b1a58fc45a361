"""``pafu watch``: a live stream of any server into a file or a pipe, through the public client."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pafu_client.sync import VideoStream


class WatchError(RuntimeError):
    """The stream could not be opened or written; the message says why."""


def watch(
    url: str,
    prompt: str | None,
    session: str | None,
    output: str,
    seconds: float | None,
    seed: int | None,
    console: Console,
) -> str:
    """Write the stream of ``prompt``, or of the running ``session``, to ``output`` ("-": standard output) as it comes.

    A pipe is fed in real time, as a player wants it; a file as fast as the server makes it. A line that sums it up.
    Raises WatchError.
    """
    try:
        import pafu_client.sync as client
        from pafu_client import Options, PafuError
    except ImportError:
        raise WatchError("pafu watch needs the client package: pip install ./clients/python") from None
    try:
        (model, *_) = client.models(url)
        pictures = None if seconds is None else max(1, round(seconds * model["fps"]))
        if session is not None:
            return _write(client.watch(url, session), output, pictures, console)
        options: Options = {"prompt": prompt or "", "realtime": output == "-"}
        if pictures is not None:
            options["num_frames"] = pictures
        if seed is not None:
            options["seed"] = seed
        return _write(client.connect(url, **options), output, pictures, console)
    except PafuError as error:
        raise WatchError(error.message) from None
    except OSError as error:
        raise WatchError(f"cannot write {output}: {error.strerror}") from None


def _write(
    opening: contextlib.AbstractContextManager[VideoStream], output: str, pictures: int | None, console: Console
) -> str:
    """Whole chunks until there are so many pictures, or the stream ends."""
    written = 0
    with opening as stream, sink(output) as file, progress_bar(console) as progress:
        for told in stream.init.warnings:
            console.print(f"note: {told}", markup=False, highlight=False)
        task = progress.add_task("pictures", total=pictures)
        for chunk in stream:
            file.write(chunk.data)
            file.flush()
            written += chunk.metadata.num_frames
            progress.update(task, advance=chunk.metadata.num_frames)
            if pictures is not None and written >= pictures:
                break
    return f"{output}: {written} pictures, seed {stream.init.config.get('seed')}"


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
