"""``pafu doctor``: what this machine can run, and why not."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from model.spec import ModelSpec, spec_named
from server.config import Settings
from server.process import usable_cores

GIB = 2**30
NEEDED_MODULES = ("fastapi", "uvicorn", "websockets", "msgspec", "av", "numpy", "safetensors", "torch")


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, whether it is fine, and what was seen or should be done."""

    name: str
    fine: bool
    seen: str


def examine(settings: Settings, console: Console) -> bool:
    """Print all findings; whether ``pafu serve`` can work here."""
    findings = list(examinations(settings))
    table = Table("", "looked at", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.fine else "[red]no[/red]", finding.name, finding.seen)
    console.print(table)
    fine = all(finding.fine for finding in findings)
    console.print("this machine can run pafu serve" if fine else "pafu serve cannot work like this: see the rows above")
    return fine


def examinations(settings: Settings) -> Iterator[Finding]:
    """All findings in the order in which things are needed."""
    spec = spec_named(settings.model)
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)")
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    yield Finding("packages", not missing, f"missing: {', '.join(missing)}; run make serve" if missing else "all here")
    yield Finding("cores", True, f"{usable_cores()} usable")
    yield Finding("memory", True, memory())
    checks: list[tuple[str, Callable[[], str]]] = [
        ("torch", lambda: torch_version(settings)),
        ("encoder", lambda: encoder(spec)),
        ("weights", lambda: weights(settings)),
        ("port", lambda: port(settings)),
    ]
    for name, check in checks:
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever is wrong here is a finding, not a failure of the doctor
            yield Finding(name, False, str(error) or type(error).__name__)


def memory() -> str:
    """Memory that is free for programs, as the kernel estimates it."""
    try:
        with open("/proc/meminfo") as file:
            kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return "unknown on this system"
    return f"{kib * 1024 / GIB:.1f} GiB available"


def torch_version(settings: Settings) -> str:
    """Torch's version and the device that would be used. Raises StartError when that device is not there."""
    import torch

    from server.generator import pick_device

    device = pick_device(settings.device)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.backends.cpu.get_cpu_capability()}"
    return f"{torch.__version__} on {device} ({name})"


def encoder(spec: ModelSpec) -> str:
    """Encode one picture of the model's size. Raises EncoderError."""
    import numpy as np

    from server.media.encoder import H264Encoder

    codec = H264Encoder(spec.width, spec.height, spec.fps)
    codec.encode(np.zeros((1, spec.height, spec.width, 3), np.uint8))
    return f"libx264 makes {codec.codec} at {spec.width}x{spec.height}"


def weights(settings: Settings) -> str:
    """Load the model. Raises StartError naming what is missing or wrong."""
    from server.generator import load_model, pick_device

    given = str(settings.weights) if settings.weights else None
    head = str(settings.salience_head) if settings.salience_head else None
    _, words = load_model(settings.model, given, pick_device(settings.device), head)
    return f"{settings.model}: {words}"


def port(settings: Settings) -> str:
    """Try the port. Raises ConfigError when it is taken, or open to others without keys."""
    from server.keys import Keyring
    from server.listener import listen

    listen(settings.host, settings.port, guarded=Keyring(settings).required or settings.allow_anonymous).close()
    return f"{settings.host}:{settings.port} is free"
