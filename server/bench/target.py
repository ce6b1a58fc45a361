"""The target of a benchmark: a new or running server, its machine and memory."""

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

from pafu_client.proxies import in_between

from server.bench.launch import LaunchError, get_json, launched
from server.config import Settings
from server.process import usable_cores

MIB = 2**20
PROMPT = "a sunny meadow, a red house with a blue roof on the left; the camera pans slowly right"


class BenchError(RuntimeError):
    """The benchmark could not be run; the message says why."""


@dataclass(frozen=True)
class Target:
    """A server. ``start_seconds``, for a new one: until it was listening and until it was ready."""

    url: str
    start_seconds: dict[str, float] | None = None


@contextlib.contextmanager
def served(settings: Settings, url: str | None, **wanted: Any) -> Iterator[Target]:
    """A ready server during the block: the one at ``url``, or a new one with the settings ``wanted``.

    Raises BenchError, also for client errors inside the block.
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
    """Model, machine and versions. Raises BenchError without a server."""
    status, models = get_json(f"{url}/v1/models")
    if status != 200:
        proxy = (
            f" (by the proxy of {names}: unset it, or name the host in NO_PROXY)" if (names := in_between(url)) else ""
        )
        raise BenchError(f"no server at {url}{proxy}; start one with pafu serve, or omit --url")
    machine = {"cores": usable_cores(), "processor": processor(), "system": platform.platform()}
    return {"model": models["data"][0], "machine": machine, **get_json(f"{url}/version")[1]}


def processor() -> str:
    """The processor's name according to the kernel."""
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
    """Number of open files and sockets of a local process; 0 if unknown."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed; 0 without values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {"p50": statistics.median(values), "p95": quantile(values, 0.95), "max": max(values)}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Number of values, and their 50th, 95th and 99th percentiles."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {"count": len(values), **{name: quantile(values, share) for name, share in shares.items()}}


def as_text(report: dict[str, Any]) -> str:
    """The figures as JSON."""
    return json.dumps(report, indent=2) + "\n"


def stamp() -> str:
    """The current time (UTC) for reports."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
