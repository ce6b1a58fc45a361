"""What all commands share: how they speak, how they fail, and the options that more than one of them has."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from server.config import ConfigError, Settings, find_temporary_folder, load_settings, wants_json
from server.errors import sayable
from server.telemetry import logs

log = logging.getLogger("pafu")
console = Console(stderr=True, highlight=False, soft_wrap=True)

Model = Annotated[str | None, typer.Option(help="model name; see /v1/models  [PAFU_MODEL, default pafu-mini]")]
Weights = Annotated[str | None, typer.Option(help="folder or file of safetensors, or an id of the hub  [PAFU_WEIGHTS]")]
TextPart = Annotated[
    str | None, typer.Option("--text-encoder", help="default: beside the weights  [PAFU_TEXT_ENCODER]")
]
TextPlacement = Annotated[
    str | None, typer.Option("--text-placement", help="device, offload or cpu  [PAFU_TEXT_PLACEMENT, default offload]")
]
Vae = Annotated[str | None, typer.Option("--vae", help="Wan's, or a tiny one in TAEHV's layout  [PAFU_VAE]")]
Size = Annotated[str | None, typer.Option("--size", help="of pictures: 832x480; default: the model's  [PAFU_SIZE]")]
PositionMode = Annotated[
    str | None, typer.Option("--cache-position-mode", help="relative or absolute  [PAFU_CACHE_POSITION_MODE]")
]
CacheWindow = Annotated[
    float | None,
    typer.Option("--cache-window-latents", help="instead of the budget: with the chunk  [PAFU_CACHE_WINDOW_LATENTS]"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, or several: cuda:0,cuda:2, cpu:2  [PAFU_DEVICE]")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings  [PAFU_CONFIG]")]
CachePolicy = Annotated[str | None, typer.Option(help="which tokens stay; see docs/method.md  [PAFU_CACHE_POLICY]")]
CacheBudget = Annotated[
    float | None, typer.Option("--cache-budget-latents", help="latent frames  [PAFU_CACHE_BUDGET_LATENTS]")
]
KvDtype = Annotated[
    str | None, typer.Option("--kv-dtype", help="auto, bf16, int8, int4: how caches keep tokens  [PAFU_KV_DTYPE]")
]
SalienceHead = Annotated[Path | None, typer.Option(help="default: the one beside the weights  [PAFU_SALIENCE_HEAD]")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]
Threads = Annotated[int | None, typer.Option(help="torch threads of all workers; 0 uses all cores  [PAFU_THREADS]")]


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
