"""Graceful end of long commands on Ctrl-C, with a line that says what was written."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, Self

import typer
from typer.core import TyperGroup

from server.cli.console import console, fail, say
from server.config import wants_json
from server.telemetry import logs

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles Ctrl-C and SIGTERM during the block.

    The first signal lets the current step finish, but ends a ``waiting`` block at once; the second raises
    KeyboardInterrupt. ``signal`` is the number of the first signal, 0 before it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._waiting = False

    def __enter__(self) -> Self:
        on_main = threading.current_thread() is threading.main_thread()
        heard = [number for number in SIGNALS if on_main and signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        self._before = {number: signal.signal(number, self._asked) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that may be interrupted at any moment. Raises KeyboardInterrupt, also for an earlier signal."""
        self._waiting = True
        try:
            if self.signal:
                raise KeyboardInterrupt
            yield
        finally:
            self._waiting = False

    def _asked(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal, self.signal or number
        if again or self._waiting:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Written:
    """A video that was written, perhaps partially.

    ``wanted``: requested number of pictures, None: no limit. ``ended_by``: the signal that ended it, or 0. ``told``:
    the words that the model was told, the prompt and what it leaves open; None if they are not known here.
    """

    file: str
    pictures: int
    wanted: int | None
    fps: float
    seed: int | None
    took_seconds: float
    ended_by: int
    told: str | None = None

    @property
    def status(self) -> int:
        """Exit status; interrupting a video without a requested length is not a failure."""
        return 128 + self.ended_by if self.ended_by and self.wanted is not None else 0

    def line(self) -> str:
        """A summary for the user."""
        if not self.pictures:
            return "stopped before the first picture: nothing was written"
        of = f" of {self.wanted}" if self.wanted not in (None, self.pictures) else ""
        rate = f"{self.pictures / self.fps:.1f} s of video in {self.took_seconds:.1f} s"
        told = f"{self.file}: {self.pictures}{of} pictures, seed {self.seed}, {rate}"
        return f"stopped; {told}" if self.ended_by else told

    def report(self) -> dict[str, Any]:
        """The summary as JSON."""
        return {**asdict(self), "seconds": self.pictures / self.fps, "stopped": bool(self.ended_by)}


USAGE_ERROR: Any = typer.BadParameter.__base__  # of every kind


def _option(words: list[str], name: str) -> str | None:
    """The value of an option in unparsed arguments."""
    flag = "--" + name.replace("_", "-")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == flag or word.startswith(f"{flag}="):
            return following if word == flag else word.partition("=")[2]
    return None


class Commands(TyperGroup):
    """The command group: reports Ctrl-C if the command itself does not; with JSON logs, nothing on stderr is plain."""

    def main(self, *given: Any, **named: Any) -> Any:
        if not wants_json({name: _option(sys.argv, name) for name in ("config", "log_format")}):
            return super().main(*given, **named)
        logs.configure("info", "json")
        console.quiet = True  # progress
        try:
            status = super().main(*given, **{**named, "standalone_mode": False})
        except USAGE_ERROR as error:
            where = error.ctx.command_path if error.ctx else "pafu"
            status = fail(f"{error.format_message()} (see {where} --help)", error.exit_code).exit_code
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = "; nothing was written" if ctx.invoked_subcommand in ("generate", "watch") else ""
            say(f"interrupted{kept}")
            ctx.exit(128 + signal.SIGINT)
