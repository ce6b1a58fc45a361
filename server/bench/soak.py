"""``pafu bench soak``: stream for an hour (or any time) and record the resources of front and worker.

Each CSV row is one sample: resident memory and open files of front and worker, the front's tasks, cache size, median
chunk time since the last row, and total stall time so far.
"""

from __future__ import annotations

import asyncio
import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.bench.launch import get_json
from server.bench.target import MIB, PROMPT, describe, open_files, percentiles, served, stamp
from server.bench.viewer import Seen, view
from server.config import Settings

COLUMNS = (
    "seconds",
    "front_mib",
    "worker_mib",
    "front_files",
    "worker_files",
    "front_tasks",
    "cache_mib",
    "pictures",
    "chunk_ms",
    "stalled_seconds",
)
CHANGE_EVERY = 30.0  # seconds between a viewer's prompt changes
HELD = ("front_mib", "worker_mib", "front_files", "worker_files", "front_tasks", "cache_mib")
Line = dict[str, float]


def bench(
    settings: Settings, url: str | None, minutes: float, viewers: int, every: float, table: Path, console: Console
) -> dict[str, Any]:
    """Stream, writing the CSV as it runs; returns figures for JSON. Raises BenchError."""
    with served(settings, url, max_sessions=max(viewers, settings.max_sessions or 0)) as target:
        report = {"at": stamp(), **describe(target.url), "minutes": minutes, "viewers": viewers}
        lines, seen = asyncio.run(stream(target.url, report["model"], minutes, viewers, every, table, console))
    return {**report, **summary(lines, seen)}


async def stream(
    url: str, model: dict[str, Any], minutes: float, viewers: int, every: float, table: Path, console: Console
) -> tuple[list[Line], list[Seen]]:
    """Run all viewers for ``minutes``, with a CSV row every ``every`` seconds."""
    everybody = [Seen() for _ in range(viewers)]
    prompts = tuple(model["examples"]) or (PROMPT,)
    options: Any = {"pictures": None, "fps": model["fps"], "prompts": prompts, "change_every": CHANGE_EVERY}
    watching = [
        asyncio.create_task(view(url, seen, seed=number + 1, **options)) for number, seen in enumerate(everybody)
    ]
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            lines = await _write_lines(url, everybody, 60 * minutes, every, table, progress)
    finally:
        for task in watching:
            task.cancel()
        outcomes = await asyncio.gather(*watching, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return lines, everybody


async def _write_lines(
    url: str, everybody: list[Seen], seconds: float, every: float, table: Path, progress: Progress
) -> list[Line]:
    began, lines = time.perf_counter(), []
    task = progress.add_task("soak (s)", total=seconds)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        while (now := time.perf_counter() - began) < seconds and not all(seen.failure for seen in everybody):
            await asyncio.sleep(min(every, seconds - now))
            lines.append(await line(url, time.perf_counter() - began, everybody))
            writer.writerow(lines[-1])
            file.flush()
            progress.update(task, completed=lines[-1]["seconds"])
    return lines


async def line(url: str, seconds: float, everybody: list[Seen]) -> Line:
    """Take one sample."""
    health = (await asyncio.to_thread(get_json, f"{url}/health"))[1] or {}
    front, workers = health.get("front", {}), health.get("workers", [])
    made = [value for seen in everybody for value in seen.chunk_seconds]
    for seen in everybody:
        seen.chunk_seconds.clear()
    return {
        "seconds": round(seconds, 1),
        "front_mib": round(front.get("rss_bytes", 0) / MIB, 2),
        "worker_mib": round(sum(each["rss_bytes"] for each in workers) / MIB, 2),
        "front_files": open_files(front.get("pid")),
        "worker_files": sum(open_files(each["pid"]) for each in workers),
        "front_tasks": front.get("tasks", 0),
        "cache_mib": round(health.get("cache", {}).get("held_bytes", 0) / MIB, 2),
        "pictures": sum(seen.pictures for seen in everybody),
        "chunk_ms": round(1e3 * statistics.median(made), 1) if made else 0.0,
        "stalled_seconds": round(sum(seen.stalled for seen in everybody), 3),
    }


def summary(lines: list[Line], everybody: list[Seen]) -> dict[str, Any]:
    """The figures, with the trend of each resource from the second sixth of the time to the last."""
    return {
        "pictures": sum(seen.pictures for seen in everybody),
        "stalled_seconds": round(sum(seen.stalled for seen in everybody), 3),
        "failures": sorted({seen.failure for seen in everybody if seen.failure}),
        "gap_seconds": percentiles([gap for seen in everybody for gap in seen.gaps]),
        "held": {name: trend(lines, name) for name in HELD},
    }


def trend(lines: Sequence[Line], name: str) -> dict[str, float]:
    """Medians of the second and last sixth, their difference, and the maximum; the first sixth is warm-up."""
    values = [each[name] for each in lines] or [0.0]
    sixth = max(1, len(values) // 6)
    early, late = values[sixth : 2 * sixth] or values, values[-sixth:]
    begin, end = statistics.median(early), statistics.median(late)
    return {"early": begin, "late": end, "gained": end - begin, "most": max(values)}


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    rows = Table("", "early", "late", "gained", "most", title=f"{report['model']['id']}, {report['minutes']:g} minutes")
    for name, found in report["held"].items():
        rows.add_row(name, *(f"{found[key]:.1f}" for key in ("early", "late", "gained", "most")))
    console.print(rows)
    console.print(f"{report['pictures']} pictures, stalled {report['stalled_seconds']:.2f} s")
    for failure in report["failures"]:
        console.print(f"ended by: {failure}")


def plot(table: Path, path: Path, title: str) -> None:
    """Plot the CSV. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    with table.open(newline="") as file:
        lines = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    minutes = [each["seconds"] / 60 for each in lines]
    figure = Figure(figsize=(10, 6), layout="constrained")
    groups = (
        ("resident memory, MiB", ("front_mib", "worker_mib")),
        ("open files, tasks", ("front_files", "worker_files", "front_tasks")),
        ("time of a chunk, ms (median)", ("chunk_ms",)),
        ("viewers' stall time, s (sum)", ("stalled_seconds",)),
    )
    for axes, (label, names) in zip(figure.subplots(2, 2).flat, groups, strict=True):
        for name in names:
            axes.plot(minutes, [each[name] for each in lines], label=name)
        axes.set(xlabel="minutes", ylabel=label, ylim=(0, None))
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path)
