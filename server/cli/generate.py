"""``pafu generate``: write a video to a file, with the model in this process and the live encoder."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.checkpoints.errors import WeightsError
from model.parts import MissingExtra, NoEncoder
from model.spec import ModelSpec
from model.words.vocabularies import told as what_is_told
from model.words.vocabularies import warnings
from server.cli import output
from server.cli.console import note
from server.cli.ending import Interrupts, Written
from server.cli.memory import check_weights, count, show
from server.cli.weights import check_files
from server.config import ConfigError, Settings
from server.config.devices import Slot
from server.engine.assignment import configure
from server.engine.slots import slots_for
from server.ipc.messages import CacheChoice, Fragment, Open
from server.live.client_messages import check_held, check_prompt
from server.media import faststart
from server.media.picture import PictureError, fitted, read
from server.worker.finishing import fragments
from server.worker.generator import Generator, StartError
from server.worker.group import load as load_model
from server.worker.loop import UNKNOWN_FAILURE, failure_code
from server.worker.session import WorkerSession


class GenerateError(RuntimeError):
    """The video could not be generated; the message says why."""


def write_video(
    settings: Settings, prompt: str, target: str, seconds: float, seed: int, console: Console, image: Path | None = None
) -> Written:
    """Generate ``seconds`` of video into the file or pipe ``target`` ("-": stdout).

    Ctrl-C ends the video after the current chunk; the file then has all chunks up to there. An error leaves no file.
    Raises GenerateError, PafuError for an invalid prompt or a video too long for its cache, and BrokenPipeError if the
    reader of the pipe is gone.
    """
    spec = settings.spec
    order = _order(settings, check_prompt(prompt, spec), seed, max(1, round(seconds * spec.fps)), image)
    _check(target)
    for told in warnings(prompt, spec):
        note(told)
    with console.status(f"loading {spec.name} ..."):
        generator = load(settings, console)
    words = what_is_told(order.prompt, None, None if image else seed, spec)
    if words != order.prompt and console.is_terminal:
        note(f"the model is told: {words}")
    piped = output.is_pipe(target)
    part = target if piped else f"{target}.part"
    began = time.perf_counter()
    try:
        with Interrupts() as interrupts:
            pictures = _write(part, order, generator, console, interrupts)
            if pictures and not piped:
                faststart.finish(Path(part), Path(target), spec.fps)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise GenerateError(f"cannot write {target}: {error.strerror}") from error
    finally:
        if not piped:
            Path(part).unlink(missing_ok=True)
    took = time.perf_counter() - began
    return Written(target, pictures, order.pictures, spec.fps, seed, took, interrupts.signal, words)


def _check(target: str) -> None:
    try:
        output.check(target)
    except output.OutputError as error:
        raise GenerateError(str(error)) from None


def _order(settings: Settings, prompt: str, seed: int, pictures: int, image: Path | None) -> Open:
    cache = CacheChoice.of(settings.cache())
    check_held(cache, pictures, settings.spec, settings, None)
    return Open(
        session="file",
        prompt=prompt,
        seed=seed,
        lead_seconds=math.inf,
        cache=cache,
        pictures=pictures,
        image=_read_image(image, settings.spec),
    )


def _read_image(path: Path | None, spec: ModelSpec) -> bytes:
    if path is None:
        return b""
    try:
        return fitted(read(path), spec.width, spec.height)
    except OSError as error:
        raise GenerateError(f"the picture {path} cannot be read: {error.strerror}") from error
    except PictureError as error:
        raise GenerateError(f"{path}: {error}") from error


def load(settings: Settings, console: Console) -> Generator:
    """Load the model in this process. Raises GenerateError."""
    try:
        check_files(settings)
        slot = slots_for(settings)[0]  # one worker is enough for one video, and has the memory to itself
        slot = replace(slot, memory_share=1 / len(slot.devices))
        _check_memory(settings, slot, console)
        return load_model(configure(settings, slot, 1, CacheChoice.of(settings.cache())))
    except (StartError, ConfigError, MissingExtra) as error:
        raise GenerateError(settings.explained(error)) from error


def _check_memory(settings: Settings, slot: Slot, console: Console) -> None:
    """Raise ConfigError for a large model whose files cannot be loaded, and GenerateError for one that does not fit,
    after a table of what would."""
    if not settings.spec.public:
        return
    try:
        check_weights(settings)
    except WeightsError as error:
        raise ConfigError(str(error), error.part) from error
    rows, too_large = count(settings, slot)
    if too_large:
        show(rows, console)
        raise GenerateError(too_large)


def _write(place: str, order: Open, generator: Generator, console: Console, interrupts: Interrupts) -> int:
    """Generate and write all chunks; returns the number of pictures."""
    try:
        session = WorkerSession(order, generator)
    except NoEncoder as error:
        raise GenerateError(f"--image: {error}") from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    written = 0
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with output.opened(place) as file, bar as progress, generator.decoding_thread() as executor:
        task = progress.add_task("pictures", total=order.pictures)
        for fragment in _explained(fragments(session, executor, stopped=lambda: interrupts.signal)):
            file.write(fragment.data)
            written += fragment.pictures
            progress.update(task, completed=written)
    return written


def _explained(made: Iterator[Fragment]) -> Iterator[Fragment]:
    """The chunks; a failure that the weights, the memory or the settings explain is a GenerateError."""
    try:
        yield from made
    except Exception as error:
        if failure_code(error) == UNKNOWN_FAILURE:
            raise
        raise GenerateError(" ".join(str(error).split())) from error
