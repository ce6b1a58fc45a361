"""``pafu bench``: the whole way from prompt to encoded bytes over a socket, measured as a viewer sees it.

A server is started for the purpose (or one that runs is taken by its address). First a recorder takes a stream as
fast as it is made: pictures a second, time to the first chunk, chunk time by stage. With ``--minutes`` a viewer then
plays in real time while the memory of both processes is sampled.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.config import Settings
from server.launch import LaunchError, get_json, launched
from server.process import usable_cores

MIB = 2**20
SAMPLE_SECONDS = 10.0
PROMPT = "a sunny meadow, a red house with a blue roof on the left; the camera pans slowly right"
MOST_LEAD = 3600.0


class BenchError(RuntimeError):
    """The benchmark could not be run; the message says why."""


def bench(settings: Settings, url: str | None, seconds: float, minutes: float, console: Console) -> dict[str, Any]:
    """Measure and print; the figures, ready for JSON. Raises BenchError."""
    try:
        from pafu_client import PafuError
    except ImportError:
        raise BenchError("pafu bench needs the client package: pip install ./clients/python") from None
    try:
        if url is not None:
            report = measure(url, seconds, minutes, console)
        else:
            given = settings.model_dump(exclude_unset=True, exclude={"port", "host", "max_lead_seconds"})
            with launched(**given, max_lead_seconds=MOST_LEAD) as server:
                url = server.url()
                start = {"listening": time.perf_counter() - server.began, "ready": server.wait_ready()}
                report = {"start_seconds": start, **measure(url, seconds, minutes, console)}
    except PafuError as error:
        raise BenchError(error.message) from None
    except LaunchError as error:
        raise BenchError(str(error)) from None
    show(report, console)
    return report


def measure(url: str, seconds: float, minutes: float, console: Console) -> dict[str, Any]:
    """All figures of a running server."""
    report = describe(url)
    report["throughput"] = asyncio.run(throughput(url, report["model"], seconds, console))
    report["memory"] = memory(url)
    if minutes > 0:
        report["soak"] = asyncio.run(soak(url, report["model"]["fps"], minutes, console))
    return report


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
    """Resident memory of front and worker in MiB."""
    health = get_json(f"{url}/health")[1] or {}
    return {part: health.get(part, {}).get("rss_bytes", 0) / MIB for part in ("front", "worker")}


async def throughput(url: str, model: dict[str, Any], seconds: float, console: Console) -> dict[str, Any]:
    """A recorder that takes ``seconds`` of video as fast as it is made."""
    from pafu_client import connect

    pictures = max(1, round(seconds * model["fps"]))
    lead = model["limits"]["max_streaming_buffer_seconds"]
    arrivals, stats, sizes = [], [], []
    began = time.perf_counter()
    options: Any = {"num_frames": pictures, "streaming_buffer_seconds": lead, "realtime": False, "seed": 1}
    with Progress(console=console) as progress:
        task = progress.add_task("as fast as it goes", total=pictures)
        async with connect(url, prompt=PROMPT, **options) as stream:
            async for chunk in stream:
                arrivals.append(time.perf_counter() - began)
                stats.append(chunk.metadata.stats)
                sizes.append(len(chunk.data))
                progress.update(task, advance=chunk.metadata.num_frames)
    steady = pictures - min(pictures, model["chunk_frames"])
    return {
        "pictures": pictures,
        "pictures_per_second": steady / (arrivals[-1] - arrivals[0]) if steady else None,
        "first_chunk_seconds": arrivals[0],
        "chunk_seconds": spread([s["chunk_seconds"] for s in stats]),
        "stage_seconds": {name: spread([s["seconds"][name] for s in stats]) for name in stats[0]["seconds"]},
        "kilobits_per_second": sum(sizes) * 8e-3 * model["fps"] / pictures,
        "cache_bytes": stats[-1]["cache_bytes"],
        "cache_tokens": stats[-1]["cache_tokens"],
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    ranked = sorted(values)
    return {"p50": statistics.median(ranked), "p95": ranked[int(0.95 * (len(ranked) - 1))], "max": ranked[-1]}


async def soak(url: str, fps: int, minutes: float, console: Console) -> dict[str, Any]:
    """A viewer in real time for some minutes: stalls, and the memory of both processes along the way."""
    from pafu_client import connect

    series, stalled, received, pictures = [], 0.0, 0.0, 0
    began = time.perf_counter()
    first = next_sample = 0.0
    with Progress(console=console) as progress:
        task = progress.add_task("soak (s)", total=minutes * 60)
        async with connect(url, prompt=PROMPT, num_frames=round(minutes * 60 * fps), seed=1) as stream:
            async for chunk in stream:
                now = time.perf_counter() - began
                first = first or now
                stalled += max(0.0, now - first - stalled - received) if pictures else 0.0
                received += chunk.metadata.num_frames / fps
                pictures += chunk.metadata.num_frames
                if now >= next_sample:
                    series.append({"seconds": now, **await asyncio.to_thread(memory, url)})
                    next_sample = now + SAMPLE_SECONDS
                progress.update(task, completed=received)
    return {"minutes": minutes, "pictures": pictures, "stalled_seconds": stalled, "memory": series, **growth(series)}


def growth(series: list[dict[str, float]]) -> dict[str, Any]:
    """MiB that each process gained between the first third's and the last third's median."""
    third = max(1, len(series) // 3)

    def gained(part: str) -> float:
        early, late = series[:third], series[-third:]
        return statistics.median(s[part] for s in late) - statistics.median(s[part] for s in early)

    return {"growth_mib": {part: gained(part) for part in ("front", "worker")}}


def show(report: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    table = Table("", "", title=f"{report['model']['id']} on {report['machine']['processor']}", show_header=False)
    for name, value in rows(report):
        table.add_row(name, value)
    console.print(table)


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every line of the table."""
    model, figures, ram = report["model"], report["throughput"], report["memory"]
    rate = figures["pictures_per_second"]
    lines = [
        ("weights, device", f"{model['weights']}, {model['device']}, {report['machine']['cores']} cores"),
        ("size", f"{model['width']}x{model['height']} at {model['fps']} fps"),
        ("pictures a second", f"{rate:.1f} ({rate / model['fps']:.2f}x real time)" if rate else "too short to tell"),
        ("first chunk after session.start", f"{figures['first_chunk_seconds']:.2f} s"),
        ("memory", f"front {ram['front']:.0f} MiB, worker {ram['worker']:.0f} MiB"),
        ("cache", f"{figures['cache_tokens']} tokens, {figures['cache_bytes'] / MIB:.2f} MiB"),
        ("video", f"{figures['kilobits_per_second']:.0f} kbit/s"),
    ]
    if start := report.get("start_seconds"):
        lines.insert(
            2, ("pafu serve", f"listening after {start['listening']:.1f} s, ready after {start['ready']:.1f} s")
        )
    for name, seconds in figures["stage_seconds"].items():
        lines.append((f"  {name}", f"{1e3 * seconds['p50']:.1f} ms (p95 {1e3 * seconds['p95']:.1f})"))
    if soaked := report.get("soak"):
        gained = soaked["growth_mib"]
        lines.append(("soak", f"{soaked['minutes']:g} min, stalled {soaked['stalled_seconds']:.2f} s"))
        lines.append(("memory gained", f"front {gained['front']:+.1f} MiB, worker {gained['worker']:+.1f} MiB"))
    return lines


def save(report: dict[str, Any], path: Path) -> None:
    """Write the figures as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")
