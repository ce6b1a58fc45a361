"""What all commands share: how they speak and how they fail."""

from __future__ import annotations

import json
import logging
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from server.config import ConfigError, Settings, find_temporary_folder, load_settings, wants_json
from server.errors import sayable
from server.telemetry import logs

log = logging.getLogger("pafu")
console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One readable line for the person at the terminal; a line of the log where that is JSON."""
    if logs.in_json():
        log.info("%s", text)
    else:
        console.print(f"[bold]pafu[/bold] {escape(text)}")


def print_json(report: Any) -> None:
    """For a program, on standard output."""
    typer.echo(json.dumps(report, indent=2))


def fail(message: str, status: int = 1) -> typer.Exit:
    """Print one line that says what is wrong, whatever the message is made of; raise the result."""
    message = " ".join(sayable(message).split())
    if logs.in_json():
        log.error("%s", message)
    else:
        console.print(f"[bold red]pafu: error:[/bold red] {escape(message)}")
    return typer.Exit(status)


def settings_from(**flags: object) -> Settings:
    """Flags over PAFU_* variables over defaults; one line and status 2 when they cannot work."""
    try:
        settings = load_settings(flags)
        find_temporary_folder(settings.data_dir)  # torch wants one as soon as it is imported
        return settings
    except ConfigError as error:
        if wants_json(flags):
            logs.configure("info", "json")
        raise fail(str(error), 2) from None
