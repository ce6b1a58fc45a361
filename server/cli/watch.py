"""``pafu watch``: save or pipe a live stream from any server, through the public client."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.cli.console import note
from server.cli.ending import Interrupts, Written
from server.cli.output import OutputError, check, is_pipe, opened
from server.media import faststart

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
) -> Written:
    """Write a new stream of ``prompt``, or the running ``session``, to ``output`` ("-": stdout).

    A pipe gets it in real time, as players need it; a file as fast as the server generates it, with its index written
    at the end, however it ends. Ctrl-C ends it after a whole chunk. Raises WatchError, and BrokenPipeError if the
    reader of stdout is gone.
    """
    try:
        check(output)
    except OutputError as error:
        raise WatchError(str(error)) from None
    try:
        import pafu_client.sync as client
        from pafu_client import Options, PafuError
    except ImportError:
        raise WatchError("pafu watch needs the client package: pip install ./clients/python") from None
    try:
        (model, *_) = client.models(url)
        pictures = None if seconds is None else max(1, round(seconds * model["fps"]))
        if session is not None:
            return _write(url, client.watch(url, session), output, pictures, console)
        options: Options = {"prompt": prompt or "", "realtime": is_pipe(output)}
        if pictures is not None:
            options["num_frames"] = pictures
        if seed is not None:
            options["seed"] = seed
        return _write(url, client.connect(url, **options), output, pictures, console)
    except PafuError as error:
        todo = "; start pafu serve there, or name another server with --url" if error.code == "connect_failed" else ""
        raise WatchError(f"{error.message}{todo}") from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise WatchError(f"cannot write {output}: {error.strerror}") from None


def _write(
    url: str,
    opening: contextlib.AbstractContextManager[VideoStream],
    output: str,
    pictures: int | None,
    console: Console,
) -> Written:
    """Write whole chunks until ``pictures`` are written, the stream ends, or Ctrl-C."""
    written, began = 0, time.perf_counter()
    with (
        opening as stream,
        recorded(output, round(stream.init.fps), pictures) as file,
        progress_bar(console) as progress,
        Interrupts() as interrupts,
    ):
        for told in stream.init.warnings:
            note(told)
        if is_pipe(output) and console.is_terminal and (path := stream.init.raw.get("hls")):
            console.print(f"other players: {url.rstrip('/')}{path}", markup=False, highlight=False, soft_wrap=True)
        task = progress.add_task("pictures", total=pictures)
        while pictures is None or written < pictures:
            try:
                with interrupts.waiting():
                    chunk = stream.receive()
            except KeyboardInterrupt:
                break
            if chunk is None:
                break
            file.write(chunk.data)
            file.flush()
            written += chunk.metadata.num_frames
            progress.update(task, completed=written)
    took, fps, seed = time.perf_counter() - began, stream.init.fps, stream.init.config.get("seed")
    return Written(output, written, pictures, fps, seed, took, interrupts.signal)


@contextlib.contextmanager
def recorded(output: str, fps: int, pictures: int | None) -> Iterator[IO[bytes]]:
    """Open the output; a file is playable while it grows, and gets its index at the end."""
    try:
        with opened(output) as file:
            yield file
    finally:
        if (path := Path(output)).is_file() and not is_pipe(output):
            if path.stat().st_size:
                faststart.finish(path, path, fps, pictures)
            else:
                path.unlink()


def progress_bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
