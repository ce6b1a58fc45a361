"""The command line: ``pafu serve | generate | watch | doctor | bench ...``. Errors are one line and a non-zero
status."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server import __version__
from server.cli import bench, demo, distill, drain, evaluate, keys
from server.cli import weights as weights_cli
from server.cli.console import console, fail, print_json, say, settings_from
from server.cli.ending import Commands, Written
from server.cli.options import CACHE, MODEL, Json, takes_settings
from server.cli.simulate import simulate
from server.cli.weights import fetched
from server.config import Settings
from server.config.addresses import page_address
from server.errors import PafuError

app = typer.Typer(
    name="pafu",
    help="Real-time streaming video generation. Every flag of serve is also a PAFU_* variable.",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
)


@app.command()
@takes_settings(
    *("host", "port", "engine", "ray_address", "ray_namespace", *MODEL, *CACHE, "metrics_port", "max_sessions"),
    *("lead_seconds", "log_level", "log_format", "config", "keys_file", "allow_anonymous"),
)
def serve(settings: Settings) -> None:
    """Serve live video: a web page for browsers, a WebSocket for programs."""
    from server.cli.serve import serve as serve_until_ended

    serve_until_ended(settings)


@app.command()
@takes_settings(*MODEL, *CACHE)
def generate(
    settings: Settings,
    prompt: Annotated[str, typer.Argument(help="what to show")],
    output: Annotated[str, typer.Option("-o", "--output", help="MP4 file to write, - for stdout")] = "out.mp4",
    seconds: Annotated[float, typer.Option(min=0.05, max=3600, help="length in seconds")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same video")] = 1,
    image: Annotated[Path | None, typer.Option(help="first picture: JPEG, PNG or WebP")] = None,
    as_json: Json = False,
) -> None:
    """Write a video to a file, without a server."""
    if as_json and output == "-":
        raise fail("--json and -o - both write to stdout; name a file with -o", 2)
    fetched(settings)
    from server.cli.generate import GenerateError, write_video

    try:
        written = write_video(settings, prompt, output, seconds, seed, console, image)
    except (GenerateError, PafuError) as error:
        raise fail(str(error)) from None
    _tell(written, as_json)


@app.command()
def watch(
    prompt: Annotated[str | None, typer.Argument(help="what to show")] = None,
    session: Annotated[str | None, typer.Option(help="watch this session instead; see /v1/sessions")] = None,
    output: Annotated[str, typer.Option("-o", "--output", help="MP4 file to write, - for stdout")] = "live.mp4",
    seconds: Annotated[float | None, typer.Option(min=0.05, help="length in seconds; default: until Ctrl-C")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same video")] = None,
    url: Annotated[
        str | None, typer.Option(help="address of the server; default: from PAFU_HOST and PAFU_PORT")
    ] = None,
    as_json: Json = False,
) -> None:
    """Save or pipe a live stream from a running server (pafu watch ... -o - | ffplay -).

    Starts a new session with PROMPT, or watches an existing one with --session.
    """
    if (prompt is None) == (session is None) or (session and seed is not None):
        raise fail("give either PROMPT or --session ID; a watched session has its own seed", 2)
    if as_json and output == "-":
        raise fail("--json and -o - both write to stdout; name a file with -o", 2)
    from server.cli.watch import WatchError
    from server.cli.watch import watch as watch_stream

    try:
        written = watch_stream(url or _own_address(), prompt, session, output, seconds, seed, console)
    except WatchError as error:
        raise fail(str(error)) from None
    _tell(written, as_json)


def _own_address() -> str:
    """The address of a pafu serve with this environment's settings."""
    settings = settings_from()
    return page_address(settings.host, settings.port)


def _tell(written: Written, as_json: bool) -> None:
    """Report what was written, and exit with its status."""
    if as_json:
        print_json(written.report())
    else:
        say(written.line())
    raise typer.Exit(written.status)


@app.command()
@takes_settings("port", *MODEL, "cache_policy", "cache_budget_latents", "config")
def doctor(settings: Settings, as_json: Json = False) -> None:
    """Check what this machine can run, and how to fix what it cannot."""
    from server.cli.doctor import examine

    if not examine(settings, Console(highlight=False), as_json):
        raise typer.Exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    _tell_version(as_json, __version__)


def _tell_version(as_json: bool, text: str) -> None:
    """Print ``text``, or as JSON also the versions of what Pafu needs."""
    if as_json:
        from server.cli.doctor import package_versions

        print_json({"version": __version__, "versions": package_versions()})
    else:
        typer.echo(text)


@app.callback(invoke_without_command=True)
def pafu(
    context: typer.Context,
    version_only: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --version: print JSON on stdout")] = False,
) -> None:
    """Real-time streaming video generation. Every flag of serve is also a PAFU_* variable."""
    if version_only:
        _tell_version(as_json, f"pafu {__version__}")
        raise typer.Exit
    if as_json:
        raise typer.BadParameter("--json goes after the command, as in pafu doctor --json")
    if context.invoked_subcommand is None:
        raise typer.BadParameter("a command is missing")


app.add_typer(demo.app, name="demo")
app.add_typer(bench.app, name="bench")
app.command()(simulate)
app.command("drain")(drain.drain)
app.add_typer(keys.app, name="keys")
app.command("pull")(weights_cli.pull)
app.command("convert")(weights_cli.convert)
app.command("eval")(evaluate.evaluate)
app.add_typer(distill.app, name="distill")


def main() -> None:
    """Entry point."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # keep the current folder off child processes' import path
    app(prog_name="pafu")
