"""Output and errors of all commands."""

from __future__ import annotations

import json
import logging
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from server.config import ConfigError, Settings, find_temporary_folder, load_settings
from server.errors import encodable
from server.telemetry import logs

log = logging.getLogger("pafu")
console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line for the user; with JSON logs, log it instead."""
    if logs.in_json():
        log.info("%s", text)
    else:
        console.print(f"[bold]pafu[/bold] {escape(text)}")


def note(text: str) -> None:
    """Print a remark about what the user asked for; with JSON logs, log it."""
    if logs.in_json():
        log.info("note: %s", text)
    else:
        console.print(f"note: {text}", markup=False)


def print_json(report: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(report, indent=2))


def fail(message: str, status: int = 1) -> typer.Exit:
    """Print an error as one line and return the exit; use as ``raise fail(...)``."""
    message = " ".join(encodable(message).split())
    if logs.in_json():
        log.error("%s", message)
    else:
        console.print(f"[bold red]pafu: error:[/bold red] {escape(message)}")
    return typer.Exit(status)


def settings_from(**flags: object) -> Settings:
    """Load settings with these flags; on an invalid setting, exit with one line and status 2."""
    try:
        settings = load_settings(flags)
        find_temporary_folder(settings.data_dir)  # torch needs it at import
        return settings
    except ConfigError as error:
        raise fail(str(error), 2) from None
