"""``pafu doctor``: what this machine can run, and why not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cache.config import promised_bytes
from model.spec import ModelSpec, spec_named
from server import __version__
from server.config import Settings
from server.process import usable_cores

GIB, MIB = 2**30, 2**20
KEPT_FREE = 512 * MIB  # for the model's working memory and the machine itself
BESIDE_CACHE = 16 * MIB  # of a session: decoder state, encoder, fragments on their way
NO_CUDA_BUILD = "; there is an NVIDIA GPU, but this torch cannot use it: install its CUDA build or update the driver"
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
    old = outdated()
    yield Finding("versions", not old, f"{'; '.join(old)}: run make serve, or pip install -e ." if old else versions())
    yield Finding("cores", True, f"{usable_cores()} usable")
    yield Finding("memory", True, memory())
    checks: list[tuple[str, Callable[[], str]]] = [
        ("torch", lambda: torch_version(settings)),
        ("encoder", lambda: encoder(spec)),
        ("weights", lambda: weights(settings)),
        ("sessions", lambda: sessions(settings, spec)),
        ("jobs", lambda: check_jobs(settings)),
        ("tracing", lambda: tracing(settings)),
        ("port", lambda: port(settings)),
        ("metrics", lambda: metrics_port(settings)),
    ]
    for name, check in checks:
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever is wrong here is a finding, not a failure of the doctor
            yield Finding(name, False, str(error) or type(error).__name__)


class Wrong(RuntimeError):
    """A finding that is not fine; the message says what to do."""


def outdated() -> list[str]:
    """Installed packages that are older than pafu needs: older ones start, and fail in strange ways later."""
    found = []
    for line in importlib.metadata.requires("pafu") or []:
        needed = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line)
        if needed is None or importlib.util.find_spec(needed[1].replace("-", "_")) is None:
            continue
        version = importlib.metadata.version(needed[1])
        if numbers(version) < numbers(needed[2]):
            found.append(f"{needed[1]} is {version}, at least {needed[2]} is needed")
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]


def versions() -> str:
    shown = ("uvicorn", "fastapi", "websockets", "av")
    return f"pafu {__version__}, " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)


def available_bytes() -> int | None:
    """Memory that is free for programs, as the kernel estimates it; within a container's limit. None: unknown."""
    try:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def memory() -> str:
    free = available_bytes()
    return "unknown on this system" if free is None else f"{free / GIB:.1f} GiB available"


def sessions(settings: Settings, spec: ModelSpec) -> str:
    """How many sessions' caches fit beside the loaded model. Raises Wrong when it is fewer than PAFU_MAX_SESSIONS."""
    import torch

    from model.weights import preferred_dtype
    from server.generator import pick_device

    device = pick_device(settings.device)
    dtype = str(preferred_dtype(device)).removeprefix("torch.")
    size = session_bytes(settings, spec, dtype)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes()
    if free is None:
        return f"{size / MIB:.1f} MiB of cache each; memory unknown on this system"
    fit = max(0, int((free - KEPT_FREE) / (size + BESIDE_CACHE)))
    words = f"{fit} fit ({size / MIB:.1f} MiB of cache each, {free / GIB:.1f} GiB free)"
    if fit < settings.max_sessions:
        raise Wrong(
            f"{words}, but PAFU_MAX_SESSIONS is {settings.max_sessions}: lower it, lower "
            f"PAFU_CACHE_BUDGET_LATENTS ({settings.cache_budget_latents:g}), or free memory"
        )
    return f"{words}; PAFU_MAX_SESSIONS is {settings.max_sessions}"


def session_bytes(settings: Settings, spec: ModelSpec, dtype: str) -> int:
    """Bytes that the cache of one session with the default settings promises not to exceed."""
    return promised_bytes(
        layers=spec.num_layers,
        heads=spec.num_heads,
        head_dim=spec.head_dim,
        budget=round(settings.cache_budget_latents * spec.tokens_per_latent),
        chunk=spec.tokens_per_chunk,
        dtype=dtype,
    )


def check_jobs(settings: Settings) -> str:
    """Reach the database of jobs and the place of their videos. Raises ConfigError."""
    from server.jobs.database import check

    return check(settings)


def tracing(settings: Settings) -> str:
    """Raises ConfigError when traces are on and cannot be made."""
    from server.traces import traces_for

    traces = traces_for(settings)
    if traces is None:
        return "off"
    traces.close()
    return "on"


def metrics_port(settings: Settings) -> str:
    """Try the port of /metrics. Raises ConfigError when it is taken."""
    from server.listener import listen

    if settings.metrics_port is None:
        return f"on port {settings.port}, path /metrics"
    listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True).close()
    return f"{settings.metrics_host}:{settings.metrics_port} is free"


def torch_version(settings: Settings) -> str:
    """Torch's version and the device that would be used. Raises StartError when that device is not there."""
    import torch

    from server.generator import pick_device

    device = pick_device(settings.device)
    name = "; ".join(gpus()) if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    hint = "" if device == "cuda" or not driver_without_torch() else NO_CUDA_BUILD
    return f"{torch.__version__} on {device} ({name}){hint}"


def gpus() -> list[str]:
    """Every GPU with its free memory; the worker uses the first."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(f"{torch.cuda.get_device_name(index)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    return found


def driver_without_torch() -> bool:
    """There is an NVIDIA device, but torch sees none."""
    return Path("/dev/nvidiactl").exists()


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
