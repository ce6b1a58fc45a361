"""``pafu pull`` and ``pafu convert``: download public weights and convert them to safetensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from model.checkpoints import hub
from model.checkpoints.errors import WeightsError
from server.cli.console import fail, say
from server.config import ConfigError, Settings
from server.process import module_command
from server.telemetry import logs

GIB = 2**30
Dtype = Literal["as-stored", "bfloat16", "float16", "float32"]


def pull(
    name: Annotated[str, typer.Argument(help="a model (self-forcing) or a hub id (owner/name@revision)")],
    offline: Annotated[bool, typer.Option("--offline", help="use only what is already downloaded")] = False,
) -> None:
    """Download weights from the Hugging Face hub and convert them to safetensors; complete files are kept.

    Set HF_TOKEN for repositories that need one. The first revision pulled stays pinned; name another with @REVISION.
    """
    try:
        for each in hub.wanted(name):
            folder = hub.pulled(each) if offline else hub.pull(each)
            if folder is None:
                raise WeightsError(f"{each.repo} is not in {hub.cache_folder()}: pull it without --offline")
            for file in hub.pickles(each, folder):
                _convert(file, None, None, f"https://huggingface.co/{each.repo}/blob/{folder.name}/{file.name}")
            say(f"{each.repo} at {folder.name[:12]}: {folder}")
    except WeightsError as error:
        raise fail(str(error)) from None
    except ImportError as error:
        raise fail(f"pulling needs the package {error.name!r}: pip install 'pafu[wan]'") from None


def convert(
    source: Annotated[Path, typer.Argument(help=".pt or .pth file")],
    target: Annotated[Path | None, typer.Argument(help=".safetensors file; default: next to the source")] = None,
    dtype: Annotated[Dtype, typer.Option(help="type of floating-point tensors")] = "as-stored",
) -> None:
    """Convert a pickled checkpoint to safetensors: only tensors are read, no code in it runs."""
    try:
        _convert(source, target, None if dtype == "as-stored" else dtype, "")
    except WeightsError as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(f"{error.filename or source} cannot be written: {error.strerror}") from None


def _convert(source: Path, target: Path | None, dtype: str | None, origin: str) -> None:
    import torch

    from model.checkpoints.convert import convert as make_safe

    made = make_safe(source, target, getattr(torch, dtype) if dtype else None, origin)
    size = made.file.stat().st_size / GIB
    say(f"{made.file}: {made.part}, {made.tensors} tensors, {size:.2f} GiB, sha256 {made.sha256[:12]}")


def fetched(settings: Settings) -> None:
    """Download hub weights if necessary, in a child process, since a server never unpickles.

    Raises typer.Exit if that fails.
    """
    if settings.weights is None or not hub.is_hub_id(settings.weights):
        return
    try:
        hub.locate(settings.weights, settings.spec)
    except WeightsError:
        pulling = subprocess.Popen(
            (*module_command("server.cli"), "pull", hub.name_of(settings.weights, settings.spec)),
            stdout=subprocess.PIPE if logs.in_json() else None,
            stderr=subprocess.STDOUT if logs.in_json() else None,
        )
        for line in pulling.stdout or ():
            sys.stderr.write(logs.enveloped(line, "pull").decode())
        if pulling.wait():
            raise typer.Exit(pulling.returncode) from None


def check_files(settings: Settings) -> None:
    """Raises ConfigError for weights that are not on this machine. The worker checks what is in them."""
    for part in ("weights", "text_encoder", "vae", "salience_head"):
        given = getattr(settings, part)
        if given is not None and not hub.is_hub_id(str(given)) and (why := _why_no_weights(Path(given))):
            raise ConfigError(f"{given} {why}", part)


def _why_no_weights(place: Path) -> str:
    """Why there can be no weights at this place; empty if there may be."""
    if not place.exists():
        return "is missing: name a file or folder that exists"
    if place.is_dir():
        found = any(place.rglob("*.safetensors")) or any(place.rglob("*.pt*"))  # the worker names those to convert
        return "" if found else "has no .safetensors file: name a folder or file of weights"
    pickle = f"is a pickle, which can run code: convert it once with `pafu convert {place}`"
    return pickle if place.suffix in hub.PICKLES else ""
