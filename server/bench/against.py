"""Compare with another checkout in turns, so that fluctuations of the machine affect both.

A checkout of Pafu is compared end to end, by its own ``pafu bench``. A checkout of Self-Forcing, the reference
implementation, is compared by the transformer's passes on the same random weights (``server.bench.roll_out``).
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from model.spec import spec_named
from server.bench.roll_out import WHOLE, Setup, caches
from server.process import module_command

ROUNDS, SECONDS = 5, 60  # of both servers, and of video in each
CHUNKS = 5  # measured of each roll-out, once its cache is full
ALIKE = {"float32": 1e-3, "bfloat16": 0.1}  # largest difference between both sides' first latents
OURS = Path(__file__).parents[2]


class AgainstError(RuntimeError):
    """A checkout cannot be measured; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Median pictures per second of both sides over ``turns`` alternating turns."""

    what: str
    ours: float
    theirs: float
    turns: int

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    def figures(self) -> dict[str, float | int | str]:
        """All of it, for JSON."""
        return {**asdict(self), "ratio": self.ratio}


Tell = Callable[[str], None]  # takes a line about the progress


def compare(root: Path, setups: Sequence[Setup], given: Mapping[str, Any], tell: Tell) -> list[Comparison]:
    """Compare this checkout with the one in ``root``: of Pafu with the settings ``given``, or the reference once per
    setup.

    Raises AgainstError.
    """
    if all((root / package / "__init__.py").is_file() for package in ("server", "model", "cache")):
        return [against_pafu(root, given, tell)]
    if (root / "wan" / "modules" / "causal_model.py").is_file():
        return [each for setup in setups for each in against_reference(root, setup, tell)]
    raise AgainstError(
        f"{root} is a checkout neither of Pafu (it has no packages server, model and cache) nor of Self-Forcing (it "
        "has no wan/modules/causal_model.py)"
    )


def against_pafu(root: Path, given: Mapping[str, Any], tell: Tell) -> Comparison:
    """Both servers stream at full speed, from prompt to encoded bytes, under the policy ``pafu``, in pictures of the
    size that the other one draws."""
    environ = {f"PAFU_{name.upper()}": str(value) for name, value in ({"cache_policy": "pafu"} | dict(given)).items()}
    rates: list[tuple[float, float]] = []
    for turn in range(ROUNDS):
        theirs, size = served_rate(root.resolve(), environ)
        ours, _ = served_rate(OURS, environ | {"PAFU_SIZE": size})
        rates.append((ours, theirs))
        tell(f"turn {turn + 1} of {ROUNDS}: {rates[-1][0]:.1f} and {rates[-1][1]:.1f} pictures per second")
    ours, theirs = (statistics.median(side) for side in zip(*rates, strict=True))
    return Comparison(f"{given.get('model', 'pafu-mini')}, pafu, end to end", ours, theirs, ROUNDS)


def served_rate(root: Path, variables: Mapping[str, str], seconds: int = SECONDS) -> tuple[float, str]:
    """Pictures per second that the checkout's own ``pafu bench`` measures with these PAFU_* variables only, and the
    pictures' size."""
    path = os.pathsep.join([str(root), str(root / "clients" / "python")])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
    environ |= {"PYTHONPATH": path, **variables}
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "bench.json")
        command = [*module_command("server.cli"), "bench", "--seconds", str(seconds), "--output", str(figures)]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
        if done.returncode or not figures.is_file():
            raise AgainstError(f"{root} cannot be measured: {last_line(done.stderr)}")
        report = json.loads(figures.read_text())
        return float(report["throughput"]["pictures_per_second"]), "{width}x{height}".format(**report["model"])


def last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it exited without output"


def against_reference(root: Path, setup: Setup, tell: Tell, chunks: int = CHUNKS) -> list[Comparison]:
    """Each of our caches beside the reference's full cache."""
    spec = setup.spec
    with rolling("pafu", setup) as ours, rolling(str(root.resolve()), setup) as theirs:
        difference = max(abs(a - b) for a, b in zip(ours.first, theirs.first, strict=True))
        if not difference <= ALIKE[setup.dtype]:
            raise AgainstError(f"{root} computes another model: first latents differ by {difference:.2g}")
        names = list(caches(spec.chunk_latents))
        full = math.ceil(WHOLE / spec.chunk_latents) + 1
        took: dict[str, list[float]] = {name: [] for name in (*names, "reference")}
        for turn in range(full + chunks):
            for name, seconds in took.items():
                seconds.append((theirs if name == "reference" else ours).chunk(name))
            tell(f"{setup.dtype}: chunk {turn + 1} of {full + chunks}" + (", caches not full yet" * (turn < full)))
    pictures = spec.pictures_in_chunk(1)
    rate = {name: pictures / statistics.median(seconds[full:]) for name, seconds in took.items()}
    size = f"{spec.width}x{spec.height}, {setup.layers} layers, {setup.dtype}"
    return [Comparison(f"{setup.model}, {size}: {name}", rate[name], rate["reference"], chunks) for name in names]


class Rolling:
    """The process of one side."""

    def __init__(self, side: str, process: subprocess.Popen[str]) -> None:
        self._side, self._process = side, process
        self.first: list[float] = json.loads(self._answer())

    def chunk(self, name: str) -> float:
        """Make the next chunk over this cache; the seconds that it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise AgainstError(f"{self._side} cannot be measured: {last_line(said)}")
        return line


@contextmanager
def rolling(side: str, setup: Setup) -> Iterator[Rolling]:
    """A side's process during the block."""
    command = [*module_command("server.bench.roll_out"), side, msgspec.json.encode(setup).decode()]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield Rolling(side, process)
    finally:
        process.kill()
        process.communicate()


def setups(model: str, device: str, threads: int, dtypes: Sequence[str]) -> list[Setup]:
    """What to compare with the reference: the whole model on a GPU, two layers and a small picture on a CPU."""
    spec = spec_named(model)
    layers, width, height = (2, 320, 192) if device == "cpu" else (spec.num_layers, spec.width, spec.height)
    return [Setup(model, layers, width, height, dtype, device, threads) for dtype in dtypes]
