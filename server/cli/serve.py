"""``pafu serve``: check everything that the server needs, then serve until it is stopped."""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple

from server import __version__
from server.access.keys import Keyring
from server.cli.console import console, fail, say
from server.cli.weights import check_files, fetched
from server.config import ConfigError, Settings, check_data_dir
from server.config.addresses import page_address
from server.engine.choice import engine_for
from server.engine.interface import Engine
from server.http.connection_limit import raise_file_limit
from server.http.listener import listen
from server.jobs.database import check, known_stores, make_stores
from server.telemetry import logs
from server.telemetry.traces import Traces, traces_for

START_FAILED = 3  # exit status if no worker can start


class Prepared(NamedTuple):
    """What the server needs, checked before anything is created or loaded."""

    engine: Engine
    traces: Traces | None
    sock: socket.socket
    metrics_sock: socket.socket | None


def serve(settings: Settings) -> None:
    """Serve. An error at the start ends the process with one line."""
    logs.configure(settings.log_level, settings.log_format, settings.log_prompts)
    fetched(settings)
    raise_file_limit()
    _require_weights(settings)
    try:
        prepared = _prepare(settings)
    except ConfigError as error:
        raise fail(settings.explained(error)) from None
    try:
        _serve(settings, prepared)
    finally:
        for sock in (prepared.sock, prepared.metrics_sock):
            if sock is not None:
                sock.close()


def _serve(settings: Settings, prepared: Prepared) -> None:
    """Raises typer.Exit for an error at the start."""
    address = page_address(settings.host, prepared.sock.getsockname()[1])
    say(f"{__version__}: open {address}  (loading {settings.model} ...)")
    from server.http.lag import FrontLoop
    from server.http.service import run

    _tell_memory(settings)
    try:
        with asyncio.Runner(loop_factory=FrontLoop) as runner:
            failure = runner.run(
                run(settings, prepared.engine, prepared.sock, say, prepared.metrics_sock, prepared.traces)
            )
    except ConfigError as error:
        raise fail(settings.explained(error)) from None
    if failure is not None:
        raise fail(failure, START_FAILED)


def _require_weights(settings: Settings) -> None:
    """Exit if weights are not where the settings say. The machines of a cluster have their own."""
    if settings.engine != "local":
        return
    try:
        check_files(settings)
    except ConfigError as error:
        raise fail(settings.explained(error), START_FAILED) from None


def _prepare(settings: Settings) -> Prepared:
    """Raises ConfigError for the first problem."""
    traces = traces_for(settings)
    check_data_dir(settings.data_dir)
    check(settings)
    engine = engine_for(settings, lambda: known_stores(settings), lambda: make_stores(settings))
    guarded = Keyring(settings).required or settings.allow_anonymous
    sock = listen(settings.host, settings.port, guarded=guarded)
    metrics_sock = None
    if settings.metrics_port is not None:  # metrics_host is an explicit choice, so it needs no keys
        metrics_sock = listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True)
    return Prepared(engine, traces, sock, metrics_sock)


def _tell_memory(settings: Settings) -> None:
    """Check the files of a large model and print its memory needs before loading it; exit if it cannot run."""
    if not settings.spec.public or settings.engine != "local":
        return
    from model.checkpoints.errors import WeightsError
    from model.parts import MissingExtra
    from server.cli.memory import counted, show

    try:
        rows, too_large = counted(settings, checked=True)
    except (ConfigError, MissingExtra) as error:
        raise fail(settings.explained(error), START_FAILED) from None
    except WeightsError as error:
        raise fail(settings.explained(ConfigError(str(error), error.part)), START_FAILED) from None
    show(rows, console)
    if too_large:
        raise fail(too_large, START_FAILED)
