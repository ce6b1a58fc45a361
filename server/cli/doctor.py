"""``pafu doctor``: what this machine can run, and why not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from model import gpu
from model.spec import ModelSpec
from server import __version__
from server.cli.console import print_json
from server.cli.neighbour import Running, running
from server.config import ConfigError, Settings, check_data_dir
from server.config.devices import Slot
from server.engine.admission import cache_bytes
from server.engine.slots import slots_for
from server.ipc.messages import CacheChoice, Parts
from server.process import available_bytes, usable_cores

GIB, MIB = 2**30, 2**20
OLDEST_TORCH = "2.11"
ROOT = Path(__file__).resolve().parents[2]
NEEDED_MODULES = ("fastapi", "uvicorn", "websockets", "msgspec", "av", "numpy", "safetensors", "torch")
VERDICTS = {
    True: "this machine can run pafu serve",
    False: "pafu serve cannot work like this: see the rows above",
}


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, whether it is fine, and what was seen or should be done."""

    name: str
    fine: bool
    seen: str


def examine(settings: Settings, console: Console, as_json: bool = False) -> bool:
    """Print all findings; whether ``pafu serve`` can work here."""
    findings = list(examinations(settings))
    rows: list[tuple[str, ...]] = []
    if settings.spec.public:
        rows, room = room_of_model(settings)
        findings.append(room)
    fine = all(finding.fine for finding in findings)
    if as_json:
        print_json({"fine": fine, "findings": [asdict(finding) for finding in findings], "memory": rows})
    else:
        _show(findings, rows, console)
        console.print(VERDICTS[fine])
    return fine


def _show(findings: list[Finding], rows: list[tuple[str, ...]], console: Console) -> None:
    if not console.is_terminal:  # a row is a line for whoever reads it with a program
        console = Console(file=console.file, width=10_000, highlight=False)
    table = Table("", "looked at", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.fine else "[red]no[/red]", finding.name, finding.seen)
    console.print(table)
    if rows:
        from server.cli.memory import show

        show(rows, console)


def room_of_model(settings: Settings) -> tuple[list[tuple[str, ...]], Finding]:
    """What a large model takes and where it fits, as a table, and whether it fits here."""
    from model.parts import MissingExtra
    from server.cli.memory import counted

    try:
        rows, too_large = counted(settings)
    except (ConfigError, MissingExtra) as error:
        return [], Finding("room", False, settings.explained(error))
    return rows, Finding("room", too_large is None, too_large or "the model fits")


def examinations(settings: Settings) -> Iterator[Finding]:
    """All findings in the order in which things are needed."""
    spec = settings.spec
    held: list[object] = []  # the model, while it is counted how many sessions fit beside it
    other = running(settings)
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)")
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    yield Finding("packages", not missing, f"missing: {', '.join(missing)}; run make serve" if missing else "all here")
    old = outdated()
    yield Finding("versions", not old, f"{'; '.join(old)}: run make serve, or pip install -e ." if old else versions())
    yield Finding("cores", True, f"{usable_cores()} usable")
    yield Finding("memory", True, memory(other))
    for name, check in checks(settings, spec, held, other):
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever is wrong here is a finding, not a failure of the doctor
            yield Finding(name, False, settings.explained(error) or type(error).__name__)


Check = tuple[str, Callable[[], str]]


def checks(settings: Settings, spec: ModelSpec, held: list[object], other: Running | None) -> list[Check]:
    """What can fail, by name."""
    found = workers(settings)
    return [
        ("torch", lambda: torch_version(settings)),
        ("encoder", lambda: encoder(spec)),
        ("weights", lambda: weights(settings, held)),
        *((f"worker {slot.worker}", partial(worker, settings, spec, slot, len(found))) for slot in found),
        ("sessions", lambda: beside(other, sessions(settings, spec, bool(held)))),
        ("speed", lambda: beside(other, speed(settings, spec, held))),
        ("data", lambda: data_folder(settings)),
        ("jobs", lambda: check_jobs(settings)),
        ("tracing", lambda: tracing(settings)),
        ("port", lambda: str(other) if other else port(settings)),
        ("metrics", lambda: metrics_port(settings, other)),
    ]


def beside(other: Running | None, words: str) -> str:
    """What was counted or measured while another Pafu has its part of the machine."""
    return f"{words}, beside the Pafu that runs" if other else words


def workers(settings: Settings) -> tuple[Slot, ...]:
    """The workers of a server that has several; the row of torch says what is wrong with a device."""
    try:
        found = slots_for(settings)
    except ConfigError:
        return ()
    return found if len(found) > 1 else ()


class Wrong(RuntimeError):
    """A finding that is not fine; the message says what to do."""


def outdated() -> list[str]:
    """Installed packages that are older than pafu needs: older ones start, and fail in strange ways later."""
    found = []
    for line in requirements():
        needed = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?[^;]*?(>=|==)([\d.]+)[^;]*", line)  # not those of an extra
        if needed is None:
            continue
        least = OLDEST_TORCH if needed[1] == "torch" else needed[3]
        try:
            version = importlib.metadata.version(needed[1])
        except importlib.metadata.PackageNotFoundError:
            continue  # the row above names it, where it matters
        if numbers(version) < numbers(least):
            found.append(f"{needed[1]} is {version}, at least {least} is needed")
    return found


def requirements() -> list[str]:
    """What pafu needs, as its package says; in the image, where it is no package, as pyproject.toml says."""
    try:
        return importlib.metadata.requires("pafu") or []
    except importlib.metadata.PackageNotFoundError:
        file = ROOT / "pyproject.toml"
        return list(tomllib.loads(file.read_text())["project"]["dependencies"]) if file.exists() else []


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]


def versions() -> str:
    shown = ("uvicorn", "fastapi", "websockets", "av")
    return f"pafu {__version__}, " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)


def package_versions() -> dict[str, str]:
    """Python's, and those of the installed packages that Pafu needs to serve."""
    found = {"python": platform.python_version()}
    for name in NEEDED_MODULES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def memory(other: Running | None = None) -> str:
    """What is free, and what of the rest another Pafu has."""
    free = available_bytes()
    words = f"{free / GIB:.1f} GiB available" if free else "unknown on this system"
    return f"{words}; the Pafu that runs has {other.bytes / GIB:.1f} GiB" if other and other.bytes else words


@dataclass(frozen=True)
class Room:
    """What one worker has for caches: bytes of a usual session, free on its device, and of those for all caches."""

    slot: Slot
    session: int
    free: int  # 0: unknown on this system
    caches: int

    @property
    def fit(self) -> int:
        return self.caches // self.session

    def __str__(self) -> str:
        share = f"{self.caches / GIB:.1f} of {self.free / GIB:.1f} free GiB for caches"
        return f"{self.fit} fit ({self.session / MIB:.1f} MiB of cache each, {share})"


def room_of(settings: Settings, spec: ModelSpec, slot: Slot, workers: int) -> Room:
    """Beside what is loaded now."""
    from model.weights import preferred_dtype
    from server.worker.loop import CACHE_SHARE

    size = session_bytes(settings, spec, str(preferred_dtype(slot.device)).removeprefix("torch."))
    free = free_bytes(slot.device)
    caches = settings.cache_room_bytes // workers or round(CACHE_SHARE * slot.memory_share * free)
    return Room(slot, size, free, caches)


def worker(settings: Settings, spec: ModelSpec, slot: Slot, workers: int) -> str:
    """One of several workers. Raises Wrong when its device has no room for a session."""
    room = room_of(settings, spec, slot, workers)
    words = f"{slot.device}, {slot.threads} threads: {room}"
    if room.free and not room.fit:
        raise Wrong(f"{words}: free its memory, or leave the device out of PAFU_DEVICE")
    return words


def sessions(settings: Settings, spec: ModelSpec, loaded: bool = True) -> str:
    """How many sessions the server will admit beside what is loaded now. Raises Wrong below PAFU_MAX_SESSIONS."""
    if spec.public and not loaded:
        raise Wrong("not counted: the weights could not be loaded; the table below says how many fit beside them")
    found = slots_for(settings)
    rooms = [room_of(settings, spec, slot, len(found)) for slot in found]
    if not all(room.caches for room in rooms):
        return f"{rooms[0].session / MIB:.1f} MiB of cache each; memory unknown on this system"
    fit, most = sum(room.fit for room in rooms), settings.max_sessions
    words = str(rooms[0]) if len(rooms) == 1 else f"{fit} fit on {len(rooms)} workers"
    if fit < (most or 1):
        raise Wrong(
            f"{words}, but PAFU_MAX_SESSIONS is {most or 1}: lower it, lower "
            f"PAFU_CACHE_BUDGET_LATENTS ({settings.cache().budget_latents:g}), or free memory"
        )
    return words if most is None else f"{words}; PAFU_MAX_SESSIONS is {most}"


def speed(settings: Settings, spec: ModelSpec, held: list[object]) -> str:
    """How many sessions play in real time, measured with the model that was loaded. Raises Wrong when it was not."""
    import torch

    from server.engine.admission import in_real_time
    from server.ipc.messages import CacheChoice
    from server.worker.generator import ModelGenerator
    from server.worker.loop import measure

    if not held:
        raise Wrong("not measured: the weights could not be loaded")
    model: Any = held[0]
    generator = ModelGenerator(model, "", str(model.device), {})
    several = workers(settings)
    if several:
        torch.set_num_threads(several[0].threads)
    seconds = measure(generator, CacheChoice.of(settings.cache()))
    if seconds is None:
        raise Wrong("a session with the default settings cannot be made: the line above says why")
    fit, plays = in_real_time(spec, seconds) * max(1, len(several)), spec.pictures_in_chunk(1) / spec.fps
    where = f" on worker {several[0].worker} alone" if several else ""
    words = f"{fit} in real time at once (a chunk plays {plays:.2f} s and takes {seconds:.2f} s{where})"
    chosen = settings.max_sessions
    return f"{words}, but PAFU_MAX_SESSIONS is {chosen}: they will stall" if chosen and chosen > fit else words


def free_bytes(device: str) -> int:
    """Of the device; 0 where nobody tells."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device != "cpu" else available_bytes()


def session_bytes(settings: Settings, spec: ModelSpec, dtype: str) -> int:
    """Bytes that one session with the default settings promises not to exceed."""
    return cache_bytes(spec, CacheChoice.of(settings.cache()), dtype)


def check_jobs(settings: Settings) -> str:
    """Reach the database of jobs and the place of their videos. Raises ConfigError."""
    from server.jobs.database import check

    return check(settings)


def tracing(settings: Settings) -> str:
    """Raises ConfigError when traces are on and cannot be made."""
    from server.telemetry.traces import traces_for

    traces = traces_for(settings)
    if traces is None:
        return "off"
    traces.close()
    return "on"


def metrics_port(settings: Settings, other: Running | None = None) -> str:
    """Try the port of /metrics. Raises ConfigError when it is taken by anybody but the Pafu that runs."""
    from server.http.listener import listen

    if settings.metrics_port is None:
        return f"on port {settings.port}, path /metrics"
    try:
        listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True).close()
    except ConfigError:
        if other is None:
            raise
        return f"{settings.metrics_host}:{settings.metrics_port} is taken, as the Pafu that runs would have it"
    return f"{settings.metrics_host}:{settings.metrics_port} is free"


def torch_version(settings: Settings) -> str:
    """Torch's version and the devices that would be used. Raises ConfigError for one that is not there."""
    import torch

    found = slots_for(settings)
    devices = list(dict.fromkeys(slot.device for slot in found))
    named = "; ".join(f"{device} ({device_name(device)})" for device in devices)
    hint = f"; for a GPU: {gpu.why_none()}" if devices == ["cpu"] and could_use_a_gpu() else ""
    return f"{torch.__version__} on {named}{hint}"


def device_name(device: str) -> str:
    """What it is, and a GPU's free memory."""
    import torch

    if device == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"


def could_use_a_gpu() -> bool:
    """There is a GPU that torch does not use, or a torch for GPUs that sees none."""
    import torch

    return any(path.exists() for path in gpu.DRIVERS) or torch.version.cuda is not None


def encoder(spec: ModelSpec) -> str:
    """Encode one picture of the model's size. Raises EncoderError."""
    import numpy as np

    from server.media.encoder import H264Encoder

    codec = H264Encoder(spec.width, spec.height, spec.fps)
    codec.encode(np.zeros((1, spec.height, spec.width, 3), np.uint8))
    return f"libx264 makes {codec.codec} at {spec.width}x{spec.height}"


def weights(settings: Settings, held: list[object]) -> str:
    """Load the model, into ``held``. Raises StartError naming what is missing or wrong, Wrong when there is no room."""
    from server.worker.generator import load_model

    device = slots_for(settings)[0].device
    head = str(settings.salience_head) if settings.salience_head else None
    given, place = settings.weights, settings.weights_place
    size, free = file_bytes(Path(place)) if place else 0, free_bytes(device)
    if free and size > free:
        reason = f"{given} holds {size / GIB:.1f} GiB, {free / GIB:.1f} GiB is free"
        raise Wrong(f"{reason}: free memory, or serve a smaller model")
    model, words = load_model(settings.model, given, device, head, Parts.of(settings), settings.names)
    held.append(model)
    return f"{settings.model}: {words}"


def file_bytes(folder: Path | None) -> int:
    """Of all weights in the folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0


def data_folder(settings: Settings) -> str:
    """Raises ConfigError when it cannot be written."""
    check_data_dir(settings.data_dir)
    free = shutil.disk_usage(settings.data_dir).free
    return f"{settings.data_dir}: {free / GIB:.1f} GiB free for jobs and sessions"


def port(settings: Settings) -> str:
    """Try the port. Raises ConfigError when it is taken, or open to others without keys."""
    from server.access.keys import Keyring
    from server.http.listener import listen

    listen(settings.host, settings.port, guarded=Keyring(settings).required or settings.allow_anonymous).close()
    return f"{settings.host}:{settings.port} is free"
