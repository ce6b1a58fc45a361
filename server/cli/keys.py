"""``pafu keys``: create, list and remove API keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from server.access import keys
from server.cli.console import fail, say, settings_from
from server.config import ConfigError

app = typer.Typer(help="Create, list and remove API keys.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="who the key is for: lower-case letters, digits, - and _")]
T = TypeVar("T")
KeysFile = Annotated[Path | None, typer.Option("--keys-file", help="keys file  [PAFU_KEYS_FILE]")]


@app.command()
def add(
    name: Name,
    keys_file: KeysFile = None,
    max_sessions: Annotated[int | None, typer.Option(min=0, help="live sessions at once")] = None,
    max_jobs: Annotated[int | None, typer.Option(min=0, help="unfinished jobs at once")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="requests and handshakes per minute")] = None,
    owner: Annotated[
        str | None,
        typer.Option(
            help="whose sessions and videos it gives access to; default: NAME; anonymous: those made without a key"
        ),
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="expires after this many days; default: never")] = None,
) -> None:
    """Create a key and print it once; only its hash is stored."""
    path = _file(keys_file)
    limits = {"max_sessions": max_sessions, "max_jobs": max_jobs, "requests_per_minute": requests_per_minute}
    typer.echo(_told(lambda: keys.add(path, name, limits, owner, days)))
    _say(f"added {name} to {path}; the key above is not shown again. Serve with --keys-file {path}")


@app.command("list")
def list_keys(keys_file: KeysFile = None) -> None:
    """List the names and limits of all keys."""
    for name, record in _told(lambda: keys.read(_file(keys_file))).items():
        shown = ("owner", "expires", *keys.LIMITS)
        limits = [f"{field}={value}" for field in shown if (value := getattr(record, field)) is not None]
        typer.echo("  ".join((name, f"sha256:{record.sha256[:8]}...", *limits)))


@app.command()
def remove(name: Name, keys_file: KeysFile = None) -> None:
    """Remove a key: a running server then refuses it and its tickets, and closes its connections."""
    path = _file(keys_file)
    _told(lambda: keys.remove(path, name))
    _say(f"removed {name} from {path}")


def _file(given: Path | None) -> Path:

    path = given or settings_from().keys_file
    if path is None:
        raise fail("name the keys file with --keys-file or PAFU_KEYS_FILE", 2)
    return path


def _told(work: Callable[[], T]) -> T:
    """The result of ``work``; exits with one line on a ConfigError."""

    try:
        return work()
    except ConfigError as error:
        raise fail(str(error)) from None


def _say(text: str) -> None:

    say(text)
