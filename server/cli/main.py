"""The command line: ``pafu serve | generate | watch | doctor | bench``. Errors are one line and a non-zero status."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server import __version__
from server.cli import bench, demo, distill, drain, evaluate, keys
from server.cli import weights as weights_cli
from server.cli.console import (
    CacheBudget,
    CachePolicy,
    CacheWindow,
    Config,
    Device,
    Json,
    KvDtype,
    Model,
    PositionMode,
    SalienceHead,
    Size,
    TextPart,
    TextPlacement,
    Threads,
    Vae,
    Weights,
    console,
    fail,
    print_json,
    say,
    settings_from,
)
from server.cli.ending import Commands, Written
from server.cli.simulate import simulate
from server.cli.weights import fetched
from server.config import ConfigError, Settings, check_data_dir
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
START_FAILED = 3  # exit status of pafu serve when its worker can never start


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on  [PAFU_HOST, default 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="port, 0 picks a free one  [PAFU_PORT, default 8000]")] = None,
    model: Model = None,
    weights: Weights = None,
    text_encoder: TextPart = None,
    text_placement: TextPlacement = None,
    vae: Vae = None,
    size: Size = None,
    engine: Annotated[str | None, typer.Option(help="local, or ray with its cluster  [PAFU_ENGINE]")] = None,
    ray_address: Annotated[str | None, typer.Option(help="host:port of the cluster  [PAFU_RAY_ADDRESS]")] = None,
    ray_namespace: Annotated[str | None, typer.Option(help="whose workers to share  [PAFU_RAY_NAMESPACE]")] = None,
    device: Device = None,
    threads: Threads = None,
    salience_head: SalienceHead = None,
    cache_policy: CachePolicy = None,
    cache_budget_latents: CacheBudget = None,
    cache_window_latents: CacheWindow = None,
    cache_position_mode: PositionMode = None,
    kv_dtype: KvDtype = None,
    metrics_port: Annotated[int | None, typer.Option(help="a port for /metrics alone  [PAFU_METRICS_PORT]")] = None,
    max_sessions: Annotated[int | None, typer.Option(help="sessions at once  [PAFU_MAX_SESSIONS]")] = None,
    lead_seconds: Annotated[float | None, typer.Option(help="media ahead of a viewer  [PAFU_LEAD_SECONDS]")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error  [PAFU_LOG_LEVEL]")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json  [PAFU_LOG_FORMAT]")] = None,
    config: Config = None,
    keys_file: Annotated[Path | None, typer.Option(help="API keys, see pafu keys  [PAFU_KEYS_FILE]")] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", help="no keys beyond loopback  [PAFU_ALLOW_ANONYMOUS]")
    ] = None,
) -> None:
    """Serve live video: a page for browsers, a WebSocket for programs."""
    settings = settings_from(**locals())
    from server.telemetry import logs

    logs.configure(settings.log_level, settings.log_format, settings.log_prompts)
    fetched(settings)
    from server.access.keys import Keyring
    from server.engine.choice import engine_for
    from server.http.doors import raise_file_limit
    from server.http.listener import listen
    from server.jobs.database import stores
    from server.telemetry.traces import traces_for

    raise_file_limit()
    try:
        traces = traces_for(settings)
        check_data_dir(settings.data_dir)
        if any((settings.database, settings.videos, settings.sessions)):  # the default place costs no look
            from server.jobs.database import check

            check(settings)
        chosen = engine_for(settings, lambda: stores(settings))
        guarded = Keyring(settings).required or settings.allow_anonymous
        sock = listen(settings.host, settings.port, guarded=guarded)
        metrics_sock = None
        if settings.metrics_port is not None:  # a host of its own is the operator's clear word
            metrics_sock = listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True)
    except ConfigError as error:
        raise fail(settings.explained(error)) from None
    say(f"{__version__}: open {page_address(settings.host, sock.getsockname()[1])}  (loading {settings.model} ...)")
    from server.http.service import run

    _tell_memory(settings)
    try:
        failure = asyncio.run(run(settings, chosen, sock, say, metrics_sock, traces))
    except ConfigError as error:
        raise fail(settings.explained(error)) from None
    if failure is not None:
        raise fail(failure, START_FAILED)


def _tell_memory(settings: Settings) -> None:
    """What a large model will take, before it is loaded; ends the start when it cannot fit."""
    if not settings.spec.public or settings.engine != "local":
        return
    from model.parts import MissingExtra
    from server.cli.memory import counted, show

    try:
        rows, too_large = counted(settings)
    except (ConfigError, MissingExtra) as error:
        raise fail(settings.explained(error), START_FAILED) from None
    show(rows, console)
    if too_large:
        raise fail(too_large, START_FAILED)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what to show")],
    output: Annotated[str, typer.Option("-o", "--output", help="MP4 file to write, - for standard output")] = "out.mp4",
    seconds: Annotated[float, typer.Option(min=0.05, max=3600, help="length of the video")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same video")] = 1,
    image: Annotated[Path | None, typer.Option(help="picture to begin with: JPEG, PNG or WebP")] = None,
    model: Model = None,
    weights: Weights = None,
    text_encoder: TextPart = None,
    text_placement: TextPlacement = None,
    vae: Vae = None,
    size: Size = None,
    device: Device = None,
    threads: Threads = None,
    salience_head: SalienceHead = None,
    cache_policy: CachePolicy = None,
    cache_budget_latents: CacheBudget = None,
    cache_window_latents: CacheWindow = None,
    cache_position_mode: PositionMode = None,
    kv_dtype: KvDtype = None,
    as_json: Json = False,
) -> None:
    """Write a video to a file; needs no server."""
    if as_json and output == "-":
        raise fail("--json and -o - both want standard output; name a file with -o", 2)
    settings = settings_from(
        model=model,
        weights=weights,
        text_encoder=text_encoder,
        text_placement=text_placement,
        vae=vae,
        size=size,
        device=device,
        threads=threads,
        salience_head=salience_head,
        cache_policy=cache_policy,
        cache_budget_latents=cache_budget_latents,
        cache_window_latents=cache_window_latents,
        cache_position_mode=cache_position_mode,
        kv_dtype=kv_dtype,
    )
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
def doctor(
    port: Annotated[int | None, typer.Option(help="port to try  [PAFU_PORT]")] = None,
    model: Model = None,
    weights: Weights = None,
    text_encoder: TextPart = None,
    text_placement: TextPlacement = None,
    vae: Vae = None,
    size: Size = None,
    device: Device = None,
    cache_policy: CachePolicy = None,
    cache_budget_latents: CacheBudget = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what this machine can run, and what to do about what it cannot."""
    given = locals()
    del given["as_json"]
    settings = settings_from(**given)
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
