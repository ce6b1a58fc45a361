"""``pafu doctor``: check what this machine can run, and why not."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cache.config import room_for_caches
from model import gpu
from model.checkpoints import hub
from model.spec import ModelSpec
from server import __version__
from server.cli.console import print_json
from server.cli.running import Running, running
from server.config import ConfigError, Settings, check_data_dir
from server.config.devices import Slot
from server.config.folders import standing
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
    False: "pafu serve cannot run: see the rows above",
}


@dataclass(frozen=True)
class Finding:
    """One row: what was checked, whether it is fine, and what was found or should be done."""

    name: str
    fine: bool
    seen: str


def examine(settings: Settings, console: Console, as_json: bool = False) -> bool:
    """Print all findings; whether ``pafu serve`` can run here."""
    rows, room = room_of_model(settings) if settings.spec.public else ([], None)
    findings = list(examinations(settings, fits=room is None or room.fine))
    findings += [room] if room else []
    fine = all(finding.fine for finding in findings)
    if as_json:
        print_json({"fine": fine, "findings": [asdict(finding) for finding in findings], "memory": rows})
    else:
        _show(findings, rows, console)
        console.print(VERDICTS[fine])
    return fine


def _show(findings: list[Finding], rows: list[tuple[str, ...]], console: Console) -> None:
    if not console.is_terminal:  # one line per row, for programs
        console = Console(file=console.file, width=10_000, highlight=False)
    table = Table("", "check", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.fine else "[red]no[/red]", finding.name, finding.seen)
    console.print(table)
    if rows:
        from server.cli.memory import show

        show(rows, console)


def room_of_model(settings: Settings) -> tuple[list[tuple[str, ...]], Finding]:
    """The memory table of a large model, and whether it fits here."""
    from model.parts import MissingExtra
    from server.cli.memory import counted

    try:
        rows, too_large = counted(settings)
    except (ConfigError, MissingExtra) as error:
        return [], Finding("room", False, settings.explained(error))
    return rows, Finding("room", too_large is None, too_large or "the model fits")


def examinations(settings: Settings, fits: bool = True) -> Iterator[Finding]:
    """All findings, in the order in which things are needed; a model that does not fit (``fits``) is not loaded."""
    spec = settings.spec
    held: list[object] = []  # keeps the loaded model while counting the sessions that fit
    other = running(settings)
    yield Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer is needed)")
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    yield Finding(
        "packages", not missing, f"missing: {', '.join(missing)}; run make serve" if missing else "all installed"
    )
    old = outdated()
    yield Finding("versions", not old, f"{'; '.join(old)}: run make serve, or pip install -e ." if old else versions())
    yield Finding("cores", True, f"{usable_cores()} usable")
    yield Finding("memory", True, memory(other))
    for name, check in checks(settings, spec, held, other, fits):
        try:
            yield Finding(name, True, check())
        except Exception as error:  # any error is a finding, not a failure of the doctor
            yield Finding(name, False, settings.explained(error) or type(error).__name__)


Check = tuple[str, Callable[[], str]]


def checks(settings: Settings, spec: ModelSpec, held: list[object], other: Running | None, fits: bool) -> list[Check]:
    """Checks that can fail, by name."""
    found = workers(settings)
    return [
        ("torch", lambda: torch_version(settings)),
        ("encoder", lambda: encoder(spec)),
        ("weights", lambda: weights(settings, held, fits)),
        *((f"worker {slot.worker}", partial(worker, settings, spec, slot, len(found), held)) for slot in found),
        ("sessions", lambda: beside(other, sessions(settings, spec, held))),
        ("speed", lambda: beside(other, speed(settings, spec, held))),
        ("data", lambda: data_folder(settings)),
        ("jobs", lambda: check_jobs(settings)),
        *([("cluster", lambda: cluster(settings))] if settings.engine == "ray" else []),
        ("tracing", lambda: tracing(settings)),
        ("port", lambda: str(other or running(settings) or port(settings))),  # it may have started meanwhile
        ("metrics", lambda: metrics_port(settings, other)),
    ]


def beside(other: Running | None, words: str) -> str:
    """Mark a finding as measured while another Pafu was running."""
    return f"{words}, next to the running Pafu" if other else words


def workers(settings: Settings) -> tuple[Slot, ...]:
    """The workers, if there are several or one is a group. Device errors are reported in the row torch."""
    try:
        found = slots_for(settings)
    except ConfigError:
        return ()
    return found if len(found) > 1 or len(found[0].devices) > 1 else ()


class Wrong(RuntimeError):
    """A failed check; the message says what to do."""


def outdated() -> list[str]:
    """Installed packages that are too old, which would only fail later in strange ways."""
    found = []
    for line in requirements():
        needed = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?[^;]*?(>=|==)([\d.]+)[^;]*", line)  # skip packages of extras
        if needed is None:
            continue
        least = OLDEST_TORCH if needed[1] == "torch" else needed[3]
        try:
            version = importlib.metadata.version(needed[1])
        except importlib.metadata.PackageNotFoundError:
            continue  # reported in the row packages, if needed
        if numbers(version) < numbers(least):
            found.append(f"{needed[1]} is {version}, but at least {least} is needed")
    return found


def requirements() -> list[str]:
    """Pafu's requirements, from its package metadata, or in the image from pyproject.toml."""
    try:
        return importlib.metadata.requires("pafu") or []
    except importlib.metadata.PackageNotFoundError:
        file = ROOT / "pyproject.toml"
        return list(tomllib.loads(file.read_text())["project"]["dependencies"]) if file.exists() else []


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)  # type: ignore[index]


def versions() -> str:
    """Versions of Pafu and its main packages."""
    shown = ("uvicorn", "fastapi", "websockets", "av")
    return f"pafu {__version__}, " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that Pafu needs to serve."""
    found = {"python": platform.python_version()}
    for name in NEEDED_MODULES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def memory(other: Running | None = None) -> str:
    """Available memory, and the memory of another running Pafu."""
    free = available_bytes()
    words = f"{free / GIB:.1f} GiB available" if free else "unknown on this system"
    return f"{words}; the running Pafu uses {other.bytes / GIB:.1f} GiB" if other and other.bytes else words


@dataclass(frozen=True)
class Room:
    """Cache memory of one worker, in bytes: of a default session, free on the device, and for all caches. In a group: a
    session's on its first device, and the least that is free."""

    slot: Slot
    session: int
    free: int  # 0: unknown on this system
    caches: int

    @property
    def fit(self) -> int:
        return self.caches // self.session

    def __str__(self) -> str:
        share = f"{self.caches / GIB:.1f} of {self.free / GIB:.1f} free GiB for caches"
        where = " on the first device" if len(self.slot.devices) > 1 else ""
        return f"{self.fit} fit ({self.session / MIB:.1f} MiB of cache each{where}, {share})"


def room_of(settings: Settings, spec: ModelSpec, slot: Slot, workers: int, held: list[object]) -> Room:
    """Memory of one worker, beyond what is loaded (``held``) now."""
    from model.weights import preferred_dtype
    from server.worker.generator import ModelGenerator

    model: Any = held[0] if held else None
    spec, usual = model.spec if held else spec, CacheChoice.of(settings.cache())  # the loaded one, with its own codec
    generator = ModelGenerator(model, "", slot.device, {}) if held else None
    working = generator.working_bytes(usual, settings.text_placement) if generator else 0
    dtype = str(preferred_dtype(slot.devices[0])).removeprefix("torch.")
    size = session_bytes(settings, spec, dtype, slot.devices)
    free = min(free_bytes(device) for device in slot.devices)
    caches = settings.cache_room_bytes // workers or room_for_caches(round(slot.memory_share * free), working)
    return Room(slot, size, free, caches)


def worker(settings: Settings, spec: ModelSpec, slot: Slot, workers: int, held: list[object]) -> str:
    """One of several workers, or a group. Raises Wrong if its devices have no room for a session."""
    room = room_of(settings, spec, slot, workers, held)
    group = f", a group of {len(slot.devices)} processes" if len(slot.devices) > 1 else ""
    words = f"{slot.device}{group}, {slot.threads} threads{' each' if group else ''}: {room}"
    if room.free and not room.fit:
        raise Wrong(f"{words}: free its memory, or remove the device from PAFU_DEVICE")
    return words


def sessions(settings: Settings, spec: ModelSpec, held: list[object]) -> str:
    """How many sessions fit in memory beyond what is loaded. Raises Wrong below PAFU_MAX_SESSIONS."""
    if spec.public and not held:
        raise Wrong("not counted, because the weights could not be loaded; the table below says how many would fit")
    found = slots_for(settings)
    rooms = [room_of(settings, spec, slot, len(found), held) for slot in found]
    if not all(room.caches for room in rooms):
        return f"{rooms[0].session / MIB:.1f} MiB of cache each; memory unknown on this system"
    fit, most = sum(room.fit for room in rooms), settings.max_sessions
    words = str(rooms[0]) if len(rooms) == 1 else f"{fit} fit on {len(rooms)} workers"
    if fit < (most or 1):
        raise Wrong(
            f"{words}, but PAFU_MAX_SESSIONS is {most or 1}: reduce it, reduce "
            f"PAFU_CACHE_BUDGET_LATENTS ({settings.cache().budget_latents:g}), or free memory"
        )
    return words if most is None else f"{words}; PAFU_MAX_SESSIONS is {most}"


def speed(settings: Settings, spec: ModelSpec, held: list[object]) -> str:
    """How many sessions run in real time, measured with the loaded model. Raises Wrong if it was not loaded."""
    import torch

    from server.engine.admission import in_real_time
    from server.engine.assignment import configure
    from server.ipc.messages import CacheChoice
    from server.worker.generator import ModelGenerator
    from server.worker.group import in_group
    from server.worker.loop import measure

    if not held:
        raise Wrong("not measured, because the weights could not be loaded")
    model: Any = held[0]
    several, usual = workers(settings), CacheChoice.of(settings.cache())
    with contextlib.ExitStack() as stack:
        if several:
            torch.set_num_threads(several[0].threads)
        generator = ModelGenerator(model, "", str(model.device), {})
        if several:
            asked = configure(settings, several[0], len(several), usual)
            generator = stack.enter_context(in_group(generator, asked))
        seconds = measure(generator, usual)
    if seconds is None:
        raise Wrong("a session with the default settings failed; the line above says why")
    fit, plays = in_real_time(spec, seconds) * max(1, len(several)), spec.pictures_in_chunk(1) / spec.fps
    where = f" on worker {several[0].worker} alone" if len(several) > 1 else ""
    words = f"{fit} in real time at once (a chunk plays {plays:.2f} s and takes {seconds:.2f} s{where})"
    chosen = settings.max_sessions
    return f"{words}, but PAFU_MAX_SESSIONS is {chosen}: they will stall" if chosen and chosen > fit else words


def free_bytes(device: str) -> int:
    """Free memory of the device in bytes; 0 if unknown."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device != "cpu" else available_bytes()


def session_bytes(settings: Settings, spec: ModelSpec, dtype: str, devices: Sequence[str] = ("",)) -> int:
    """Most bytes that one session with the default settings uses on a device of its worker."""
    return cache_bytes(spec, CacheChoice.of(settings.cache()), dtype, devices)


def check_jobs(settings: Settings) -> str:
    """Check the job database and the file stores. Raises ConfigError."""
    from server.jobs.database import check

    return check(settings)


def cluster(settings: Settings) -> str:
    """Look for the Ray cluster, without joining it. Raises ConfigError."""
    from server.engine.choice import require_ray

    require_ray()
    from server.engine.cluster.join import find

    return f"a Ray cluster answers at {find(settings)}"


def tracing(settings: Settings) -> str:
    """Whether traces are on. Raises ConfigError if they are on but cannot work."""
    from server.telemetry.traces import traces_for

    traces = traces_for(settings)
    if traces is None:
        return "off"
    traces.close()
    return "on"


def metrics_port(settings: Settings, other: Running | None = None) -> str:
    """Try the port of /metrics. Raises ConfigError if another program than the running Pafu uses it."""
    from server.http.listener import listen

    if settings.metrics_port is None:
        return f"on port {settings.port}, path /metrics"
    try:
        listen(settings.metrics_host, settings.metrics_port, "metrics_port", guarded=True).close()
    except ConfigError:
        if other is None:
            raise
        return f"{settings.metrics_host}:{settings.metrics_port} is in use, probably by the running Pafu"
    return f"{settings.metrics_host}:{settings.metrics_port} is free"


def torch_version(settings: Settings) -> str:
    """Torch's version and the devices that would be used. Raises ConfigError for a missing device."""
    import torch

    found = slots_for(settings)
    devices = list(dict.fromkeys(device for slot in found for device in slot.devices))
    named = "; ".join(f"{device} ({device_name(device)})" for device in devices)
    hint = f"; for a GPU: {gpu.why_none()}" if devices == ["cpu"] and could_use_a_gpu() else ""
    return f"{torch.__version__} on {named}{hint}"


def device_name(device: str) -> str:
    """The CPU's instruction set, or the GPU's name and free memory."""
    import torch

    if device == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"


def could_use_a_gpu() -> bool:
    """Whether a GPU may exist: there is a driver, or torch is a GPU build."""
    import torch

    return any(path.exists() for path in gpu.DRIVERS) or torch.version.cuda is not None


def encoder(spec: ModelSpec) -> str:
    """Encode one picture of the model's size. Raises EncoderError."""
    import numpy as np

    from server.media.encoder import H264Encoder

    codec = H264Encoder(spec.width, spec.height, spec.fps)
    codec.encode(np.zeros((1, spec.height, spec.width, 3), np.uint8))
    return f"libx264 makes {codec.codec} at {spec.width}x{spec.height}"


def weights(settings: Settings, held: list[object], fits: bool = True) -> str:
    """Load the model into ``held``. Raises StartError for missing or invalid files, Wrong without enough memory."""
    from server.worker.generator import load_model

    device = slots_for(settings)[0].devices[0]
    head = str(settings.salience_head) if settings.salience_head else None
    given, place = settings.weights, settings.weights_place
    size, free = file_bytes(Path(place)) if place else 0, free_bytes(device)
    if free and size > free:
        reason = f"{given} has {size / GIB:.1f} GiB, but {free / GIB:.1f} GiB are free"
        raise Wrong(f"{reason}: free memory, or serve a smaller model")
    if place and not fits:
        raise Wrong(f"{hub.locate(place, settings.spec)} is not loaded, because the model does not fit: see room")
    model, words = load_model(settings.model, given, device, head, Parts.of(settings), settings.names)
    held.append(model)
    return f"{settings.model}: {words}"


def file_bytes(folder: Path | None) -> int:
    """Total size of the weights in the folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0


def data_folder(settings: Settings) -> str:
    """Check the data folder. Raises ConfigError if it is not writable."""
    check_data_dir(settings.data_dir)
    free = shutil.disk_usage(standing(settings.data_dir)).free
    return f"{settings.data_dir}: {free / GIB:.1f} GiB free for jobs and sessions"


def port(settings: Settings) -> str:
    """Try the port. Raises ConfigError if it is in use, or reachable by others without keys."""
    from server.access.keys import Keyring
    from server.http.listener import listen

    listen(settings.host, settings.port, guarded=Keyring(settings).required or settings.allow_anonymous).close()
    return f"{settings.host}:{settings.port} is free"
