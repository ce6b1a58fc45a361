"""Logging for front and worker: text or JSON lines with session and request ids.

``about`` binds ids to the current task or thread, so that they need not be passed along. Prompts are logged only by
``prompt``, and only if the operator has turned that on.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from server.telemetry.repeats import Repeats

FORMATS = ("text", "json")
IDS = ("session_id", "request_id", "job_id", "trace_id")
_bound: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("pafu_log_ids", default={})  # noqa: B039
_prompts = False
_json = False


class Text(logging.Formatter):
    """``time LEVEL message``, plus the session id if the message lacks it.

    Only tracebacks span several lines, and these are indented, so that untrusted input cannot forge log lines.
    """

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process + ': ' if process else ''}%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        session = _ids(record).get("session_id", "")
        return line if session in line else f"{line} [{session}]"

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return textwrap.indent("\n".join(map(printable, lines)), "    ")


class Json(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, process, message, ids, and a traceback as ``error``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process or "front"

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            **_ids(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return encoded(line)


def configure(level: str, format: str, prompts: bool = False, process: str = "") -> None:
    """Log to stderr in one of FORMATS, replacing any earlier configuration."""
    global _prompts, _json
    _prompts, _json = prompts, format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(process) if format == "json" else Text(process))
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(_json)
    logging.raiseExceptions = not _json  # its report would be plain text
    if _json:
        _log_uncaught()
    for chatty in ("uvicorn", "httpx", "opentelemetry"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def _log_uncaught() -> None:
    """Log uncaught exceptions of the process, its threads and destructors too."""
    uncaught = logging.getLogger("pafu")

    def crashed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        uncaught.critical("the process crashed", exc_info=(kind, error, traceback))

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread else "?"
            about_it = (args.exc_type, args.exc_value, args.exc_traceback)
            uncaught.error("thread %s crashed", name, exc_info=about_it)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            about_it = (args.exc_type, args.exc_value, args.exc_traceback)
            uncaught.error("%s %.200r", args.err_msg or "ignored in", args.object, exc_info=about_it)

    sys.excepthook, threading.excepthook, sys.unraisablehook = crashed, thread_crashed, unraisable


def in_json() -> bool:
    """Whether this process logs JSON, so that nothing else may be written to stderr."""
    return _json


def enveloped(said: bytes, process: str) -> bytes:
    """A JSON log line for another process's output: unchanged if it is a JSON object, otherwise wrapped as message."""
    text = said.decode(errors="replace").strip()
    with suppress(ValueError):
        if isinstance(json.loads(text), dict):
            return said
    line = {"time": _utc(time.time()), "level": "warning", "logger": "stderr", "process": process, "message": text}
    return encoded(line).encode(errors="backslashreplace") + b"\n"


def encoded(line: dict[str, str]) -> str:
    """One line of JSON, with all characters escaped that a reader may take for a line end."""
    return printable(json.dumps(line, ensure_ascii=False))


def printable(text: str) -> str:
    """The text with unprintable characters escaped as in JSON."""
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _utc(seconds: float) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{moment}.{int(seconds % 1 * 1000):03d}Z"


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Add these ids to every line logged in the block, by this task and tasks that it starts."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def rename(**ids: str) -> None:
    """Change ids for the rest of the enclosing ``about`` block."""
    _bound.set({**_bound.get(), **ids})


def prompt(log: logging.Logger, text: str) -> None:
    """Log a prompt, if the operator has turned that on."""
    if _prompts:
        log.info("prompt: %s", text)


def _ids(record: logging.LogRecord) -> dict[str, str]:
    ids = _bound.get()
    return {name: ids[name] for name in IDS if name in ids}
