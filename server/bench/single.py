"""``pafu bench``: one stream from prompt to encoded bytes, at full speed.

Receives it over the WebSocket and measures pictures per second, time to the first chunk, and chunk time by stage.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from server.bench.target import MIB, PROMPT, describe, memory, served, spread, stamp
from server.config import Settings

MOST_LEAD = 3600.0


def bench(settings: Settings, url: str | None, seconds: float, console: Console) -> dict[str, Any]:
    """Run the benchmark; returns figures for JSON. Raises BenchError."""
    with served(settings, url, max_lead_seconds=MOST_LEAD) as target:
        report = {"at": stamp(), **describe(target.url), "start_seconds": target.start_seconds}
        report["throughput"] = asyncio.run(throughput(target.url, report["model"], seconds, console))
        report["memory"] = memory(target.url)
    return report


async def throughput(url: str, model: dict[str, Any], seconds: float, console: Console) -> dict[str, Any]:
    """Receive ``seconds`` of video at full speed; returns the figures."""
    from pafu_client import connect

    pictures = max(1, round(seconds * model["fps"]))
    lead = model["limits"]["max_streaming_buffer_seconds"]
    arrivals, stats, sizes = [], [], []
    began = time.perf_counter()
    options: Any = {"num_frames": pictures, "streaming_buffer_seconds": lead, "realtime": False, "seed": 1}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("full speed", total=pictures)
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
        "cache_host_bytes": stats[-1]["cache_host_bytes"],
        "cache_tokens": stats[-1]["cache_tokens"],
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    table = Table("", "", title=f"{report['model']['id']} on {report['machine']['processor']}", show_header=False)
    for name, value in rows(report):
        table.add_row(name, value)
    console.print(table)


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each table row."""
    model, figures, ram = report["model"], report["throughput"], report["memory"]
    rate, host = figures["pictures_per_second"], figures["cache_host_bytes"]
    beside = f" + {host / MIB:.2f} MiB of host memory" if host else ""
    lines = [
        ("weights, device", f"{model['weights']}, {model['device']}, {report['machine']['cores']} cores"),
        ("size", f"{model['width']}x{model['height']} at {model['fps']} fps"),
        (
            "pictures per second",
            f"{rate:.1f} ({rate / model['fps']:.2f}x real time)" if rate else "too short to measure",
        ),
        ("first chunk after session.start", f"{figures['first_chunk_seconds']:.2f} s"),
        ("memory", f"front {ram['front']:.0f} MiB, worker {ram['worker']:.0f} MiB"),
        ("cache", f"{figures['cache_tokens']} tokens, {figures['cache_bytes'] / MIB:.2f} MiB{beside}"),
        ("video", f"{figures['kilobits_per_second']:.0f} kbit/s"),
    ]
    if start := report["start_seconds"]:
        lines.insert(
            2, ("pafu serve", f"listening after {start['listening']:.1f} s, ready after {start['ready']:.1f} s")
        )
    for name, seconds in figures["stage_seconds"].items():
        lines.append((f"  {name}", f"{1e3 * seconds['p50']:.1f} ms (p95 {1e3 * seconds['p95']:.1f})"))
    return lines
