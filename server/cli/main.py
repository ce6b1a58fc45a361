"""The command line: ``pafu serve | generate | watch | doctor | bench``. Errors are one line and a non-zero status."""

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
app.add_typer(distill.app, name="distill")
app.command("eval")(evaluate.evaluate)
app.command()(simulate)
app.command("drain")(drain.drain)
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.command("pull")(weights_cli.pull)
app.command("convert")(weights_cli.convert)
app.add_typer(demo.app, name="demo")


@app.command()
@takes_settings(
    *("host", "port", "engine", "ray_address", "ray_namespace", *MODEL, *CACHE, "metrics_port", "max_sessions"),
    *("lead_seconds", "log_level", "log_format", "config", "keys_file", "allow_anonymous"),
)
def serve(settings: Settings) -> None:
    """Serve live video: a page for browsers, a WebSocket for programs."""
    from server.cli.serve import serve as serve_until_ended

    serve_until_ended(settings)


@app.command()
@takes_settings(*MODEL, *CACHE)
def generate(
    settings: Settings,
    prompt: Annotated[str, typer.Argument(help="what to show")],
    output: Annotated[str, typer.Option("-o", "--output", help="MP4 file to write, - for standard output")] = "out.mp4",
    seconds: Annotated[float, typer.Option(min=0.05, max=3600, help="length of the video")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same video")] = 1,
    image: Annotated[Path | None, typer.Option(help="picture to begin with: JPEG, PNG or WebP")] = None,
    as_json: Json = False,
) -> None:
    """Write a video to a file; needs no server."""
    if as_json and output == "-":
        raise fail("--json and -o - both want standard output; name a file with -o", 2)
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
    session: Annotated[str | None, typer.Option(help="look on at this session instead; see /v1/sessions")] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="MP4 file to write, - for standard output")
    ] = "live.mp4",
    seconds: Annotated[float | None, typer.Option(min=0.05, help="length; default: until Ctrl-C")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same video")] = None,
    url: Annotated[str | None, typer.Option(help="of the server; default: PAFU_HOST and PAFU_PORT here")] = None,
    as_json: Json = False,
) -> None:
    """Save or pipe a live stream of a running server (pafu watch ... -o - | ffplay -).

    A new one of PROMPT, or with --session the one that somebody else watches.
    """
    if (prompt is None) == (session is None) or (session and seed is not None):
        raise fail("say what to show, or with --session ID whose stream to watch (it has its own seed)", 2)
    if as_json and output == "-":
        raise fail("--json and -o - both want standard output; name a file with -o", 2)
    from server.cli.watch import WatchError
    from server.cli.watch import watch as watch_stream

    try:
        written = watch_stream(url or _own_address(), prompt, session, output, seconds, seed, console)
    except WatchError as error:
        raise fail(str(error)) from None
    _tell(written, as_json)


def _own_address() -> str:
    """Where a pafu serve with the settings of this environment listens."""
    settings = settings_from()
    return page_address(settings.host, settings.port)


def _tell(written: Written, as_json: bool) -> None:
    """What there is now, and the exit status that goes with it."""
    if as_json:
        print_json(written.report())
    else:
        say(written.line())
    raise typer.Exit(written.status)


@app.command()
@takes_settings("port", *MODEL, "cache_policy", "cache_budget_latents", "config")
def doctor(settings: Settings, as_json: Json = False) -> None:
    """Say what this machine can run, and what to do about what it cannot."""
    from server.cli.doctor import examine

    if not examine(settings, Console(highlight=False), as_json):
        raise typer.Exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        from server.cli.doctor import package_versions

        print_json({"version": __version__, "versions": package_versions()})
    else:
        typer.echo(__version__)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pafu {__version__}")
        raise typer.Exit


@app.callback()
def pafu(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Real-time streaming video generation. Every flag of serve is also a PAFU_* variable."""


def main() -> None:
    """Entry point."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # no child imports what lies in the current folder
    app(prog_name="pafu")
