"""What is measured: a server of one's own or one that runs, the machine under it, and the memory of its processes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.bench.launch import LaunchError, get_json, launched
from server.config import Settings
from server.process import usable_cores

MIB = 2**20
PROMPT = "a sunny meadow, a red house with a blue roof on the left; the camera pans slowly right"


class BenchError(RuntimeError):
    """The benchmark could not be run; the message says why."""


@dataclass(frozen=True)
class Target:
    """A server; ``start_seconds`` of one's own: until it listened, until it was ready."""

    url: str
    start_seconds: dict[str, float] | None = None


@contextlib.contextmanager
def served(settings: Settings, url: str | None, **wanted: Any) -> Iterator[Target]:
    """A server for the length of a block: the one at ``url``, or one of its own, ready to play.

    ``wanted`` are settings of the server of its own. Raises BenchError, also for what the client could not do inside.
    """
    try:
        from pafu_client import PafuError
    except ImportError:
        raise BenchError("pafu bench needs the client package: pip install ./clients/python") from None
    try:
        if url is not None:
            yield Target(url.rstrip("/"))
            return
        given = settings.model_dump(exclude_unset=True, exclude={"port", "host", *wanted})
        with launched(**given, **wanted) as server:
            own = server.url()
            listening = time.perf_counter() - server.began
            yield Target(own, {"listening": listening, "ready": server.wait_ready()})
    except PafuError as error:
        raise BenchError(error.message) from None
    except LaunchError as error:
        raise BenchError(str(error)) from None


def describe(url: str) -> dict[str, Any]:
    """What was measured, on what. Raises BenchError when there is no server."""
    status, models = get_json(f"{url}/v1/models")
    if status != 200:
        raise BenchError(f"no server at {url}; start one with pafu serve, or leave --url out")
    machine = {"cores": usable_cores(), "processor": processor(), "system": platform.platform()}
    return {"model": models["data"][0], "machine": machine, **get_json(f"{url}/version")[1]}


def processor() -> str:
    """The processor's name, as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def memory(url: str) -> dict[str, float]:
    """Resident memory of front and workers in MiB."""
    health = get_json(f"{url}/health")[1] or {"front": {}, "workers": []}
    front, workers = health["front"].get("rss_bytes", 0), sum(each["rss_bytes"] for each in health["workers"])
    return {"front": front / MIB, "worker": workers / MIB}


def open_files(pid: int | None) -> int:
    """Files and sockets that a process of this machine has open; 0 where the kernel does not tell."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed; 0 for no values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {"p50": statistics.median(values), "p95": quantile(values, 0.95), "max": max(values)}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """What a table of latencies shows, and of how many values."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"count": len(values), **{name: quantile(values, share) for name, share in shares.items()}}


def as_text(report: dict[str, Any]) -> str:
    """The figures as JSON."""
    return json.dumps(report, indent=2) + "\n"


def stamp() -> str:
    """Now, as reports date themselves."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
