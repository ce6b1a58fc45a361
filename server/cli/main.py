"""The command line: ``pafu serve | generate | watch | doctor | bench``. Errors are one line and a non-zero status."""

from __future__ import annotations

import asyncio
import sys
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
    say,
    settings_from,
)
from server.cli.simulate import simulate
from server.cli.weights import fetched
from server.config import ConfigError, Settings, check_data_dir, find_temporary_folder
from server.errors import PafuError

app = typer.Typer(
    name="pafu",
    help="Real-time streaming video generation. Every flag of serve is also a PAFU_* variable.",
    no_args_is_help=True,
    add_completion=False,
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
    from server.engine.slots import slots_for
    from server.http.doors import raise_file_limit
    from server.http.listener import listen
    from server.telemetry.traces import traces_for

    raise_file_limit()
    try:
        traces = traces_for(settings)
        check_data_dir(settings.data_dir)
        find_temporary_folder(settings.data_dir)
        if settings.database is not None or settings.videos is not None:  # the default place costs no look
            from server.jobs.database import check

            check(settings)
        slots = slots_for(settings)
        guarded = Keyring(settings).required or settings.allow_anonymous
        sock = listen(settings.host, settings.port, guarded=guarded)
        metrics_sock = None
        if settings.metrics_port is not None:  # a host of its own is the operator's clear word
            metrics_sock = listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True)
    except ConfigError as error:
        raise fail(str(error)) from None
    say(f"{__version__}: open {page_address(settings.host, sock.getsockname()[1])}  (loading {settings.model} ...)")
    from server.http.service import run

    _tell_memory(settings)
    failure = asyncio.run(run(settings, slots, sock, say, metrics_sock, traces))
    if failure is not None:
        raise fail(failure, START_FAILED)
    say("stopped")


def _tell_memory(settings: Settings) -> None:
    """What a large model will take, before it is loaded; ends the start when it cannot fit."""
    if not settings.spec.public:
        return
    from model.parts import MissingExtra
    from server.cli.memory import counted, show

    try:
        rows, too_large = counted(settings)
    except MissingExtra as error:
        raise fail(str(error), START_FAILED) from None
    show(rows, console)
    if too_large:
        raise fail(too_large, START_FAILED)


def page_address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="what to show")],
    output: Annotated[Path, typer.Option("-o", "--output", help="MP4 file to write")] = Path("out.mp4"),
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
) -> None:
    """Write a video to a file; needs no server."""
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
        summary = write_video(settings, prompt, output, seconds, seed, console, image)
    except (GenerateError, PafuError) as error:
        raise fail(str(error)) from None
    say(summary)


@app.command()
def watch(
    prompt: Annotated[str | None, typer.Argument(help="what to show")] = None,
    session: Annotated[str | None, typer.Option(help="look on at this session instead; see /v1/sessions")] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", help="MP4 file to write, - for standard output")
    ] = "live.mp4",
    seconds: Annotated[float | None, typer.Option(min=0.05, help="length; default: until Ctrl-C")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same video")] = None,
    url: Annotated[str, typer.Option(help="address of the server")] = "http://127.0.0.1:8000",
) -> None:
    """Save or pipe a live stream of a running server (pafu watch ... -o - | ffplay -).

    A new one of PROMPT, or with --session the one that somebody else watches.
    """
    if (prompt is None) == (session is None) or (session and seed is not None):
        raise fail("say what to show, or with --session ID whose stream to watch (it has its own seed)", 2)
    from server.cli.watch import WatchError
    from server.cli.watch import watch as watch_stream

    try:
        summary = watch_stream(url, prompt, session, output, seconds, seed, console)
    except WatchError as error:
        raise fail(str(error)) from None
    say(summary)


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
) -> None:
    """Say what this machine can run, and what to do about what it cannot."""
    settings = settings_from(**locals())
    from server.cli.doctor import examine

    if not examine(settings, Console(highlight=False)):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point; Ctrl-C ends with the usual status and no traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
