"""``pafu bench sessions``: how many viewers a server can serve in real time at once, and their latencies.

A level is a number of viewers that arrive at random moments, play in real time, report playheads and sometimes change
the prompt. It holds if no viewer ever stalls. The number doubles until a level fails; then bisection finds the largest
level that holds.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from server.bench.target import PROMPT, describe, memory, percentiles, served, stamp
from server.bench.viewer import Seen, view
from server.config import Settings

SAMPLE_SECONDS = 1.0
WIDE = ("gap", "prompt to picture")  # wider columns
COME_WITHIN = 0.75  # mean seconds between two arrivals


@dataclass(frozen=True)
class Plan:
    """The parameters of all levels: seconds of play and between prompt changes, and the largest level."""

    seconds: float
    change_every: float
    most: int
    fps: float
    prompts: tuple[str, ...]

    @property
    def pictures(self) -> int:
        return round(self.seconds * self.fps)


def bench(
    settings: Settings, url: str | None, seconds: float, change_every: float, most: int, console: Console
) -> dict[str, Any]:
    """Run the benchmark; returns figures for JSON. Raises BenchError."""
    with served(settings, url, max_sessions=most) as target:
        report = {"at": stamp(), **describe(target.url)}
        model = report["model"]
        prompts = tuple(model["examples"]) or (PROMPT,)
        plan = Plan(seconds, change_every, min(most, model["limits"]["max_sessions"] or most), model["fps"], prompts)
        report["plan"] = {"seconds": seconds, "change_every": change_every, "most": plan.most}
        levels = asyncio.run(search(target.url, plan, console))
    return {**report, "sessions_in_real_time": best_of(levels), "levels": levels}


def best_of(levels: list[dict[str, Any]]) -> int:
    """The largest level that held; 0 if none did."""
    return max((level["sessions"] for level in levels if level["holds"]), default=0)


async def search(url: str, plan: Plan, console: Console) -> list[dict[str, Any]]:
    """Run levels until the largest that holds is known; returns all of them, by number of sessions."""
    levels: dict[int, dict[str, Any]] = {}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        count: int | None = 1
        while count is not None:
            task = progress.add_task(f"{count} at once", total=count * plan.pictures)
            levels[count] = await level(url, count, plan, progress, task)
            count = next_count({tried: found["holds"] for tried, found in levels.items()}, plan.most)
    return [levels[number] for number in sorted(levels)]


def next_count(held: dict[int, bool], most: int) -> int | None:
    """The next number to try, given which held; None once the largest is known."""
    good = max((count for count, holds in held.items() if holds), default=0)
    bad = min((count for count, holds in held.items() if not holds), default=None)
    if bad is None:
        return None if good >= most else min(2 * good, most)
    return (good + bad) // 2 if bad - good > 1 else None


async def level(url: str, count: int, plan: Plan, progress: Progress, task: TaskID) -> dict[str, Any]:
    """Run one level; returns its figures."""
    viewers = [Seen() for _ in range(count)]
    dice = random.Random(count)
    peak = {"front": 0.0, "worker": 0.0}
    sampling = asyncio.create_task(_sample(url, peak))
    began, burnt = time.perf_counter(), time.process_time()

    async def come(number: int, seen: Seen) -> None:
        await asyncio.sleep(dice.uniform(0, COME_WITHIN * count) if number else 0.0)
        await view(
            url,
            seen,
            pictures=plan.pictures,
            fps=plan.fps,
            seed=number + 1,
            prompts=plan.prompts,
            change_every=plan.change_every,
            told=lambda chunk: progress.advance(task, chunk.metadata.num_frames),
        )

    try:
        await asyncio.gather(*(come(number, seen) for number, seen in enumerate(viewers)))
    finally:
        sampling.cancel()
    took = time.perf_counter() - began
    made = sum(seen.pictures for seen in viewers) / took  # the workers' maximum, if viewers stall
    share = (time.process_time() - burnt) / took
    found = summary(viewers, plan.pictures)
    return {**found, "pictures_per_second": made, "rss_mib": peak, "viewers_cores": share}


async def _sample(url: str, peak: dict[str, float]) -> None:
    """Record each process's peak memory in MiB."""
    while True:
        for part, size in (await asyncio.to_thread(memory, url)).items():
            peak[part] = max(peak[part], size)
        await asyncio.sleep(SAMPLE_SECONDS)


def summary(viewers: list[Seen], pictures: int) -> dict[str, Any]:
    """The figures of one level. It holds if every viewer got all pictures and none was late."""
    failures = sorted({seen.failure for seen in viewers if seen.failure})
    whole = all(seen.pictures == pictures for seen in viewers)
    misses, deadlines = sum(seen.misses for seen in viewers), sum(seen.deadlines for seen in viewers)
    return {
        "sessions": len(viewers),
        "holds": whole and not failures and misses == 0,
        "deadlines": deadlines,
        "deadlines_missed": misses,
        "deadline_attainment": 1 - misses / deadlines if deadlines else 0.0,
        "sessions_that_stalled": sum(seen.misses > 0 for seen in viewers),
        "longest_stall_seconds": max(seen.longest_stall for seen in viewers),
        "stalled_seconds": [round(seen.stalled, 4) for seen in viewers],
        "first_chunk_seconds": percentiles([seen.first_chunk for seen in viewers if seen.first_chunk is not None]),
        "gap_seconds": percentiles([gap for seen in viewers for gap in seen.gaps]),
        "prompt_to_chunk_seconds": percentiles([value for seen in viewers for value in seen.switch_arrived]),
        "prompt_to_picture_seconds": percentiles([value for seen in viewers for value in seen.switch_shown]),
        "failures": failures,
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    model, machine = report["model"], report["machine"]
    console.print(
        f"{model['id']} ({model['weights']}), {model['width']}x{model['height']} at {model['fps']} fps, "
        f"{model['device']}: {machine['processor']}, {machine['cores']} cores"
    )
    table = Table(title="times in ms: p50/p95/p99", box=SIMPLE, pad_edge=False)
    for name in ("at once", "stalled", "in time", "first chunk", "gap", "prompt to picture"):
        table.add_column(name, justify="right", min_width=14 if name in WIDE else None)
    for found in report["levels"]:
        table.add_row(*row(found))
    console.print(table)
    console.print(f"sessions in real time at once: {report['sessions_in_real_time']}")
    most = report["levels"][-1]
    held = " + ".join(f"{most['rss_mib'][part]:.0f}" for part in ("front", "worker"))
    console.print(f"pictures per second with {most['sessions']}: {most['pictures_per_second']:.1f}")
    console.print(f"memory of front and worker with {most['sessions']}: {held} MiB")
    for failure in sorted({failure for found in report["levels"] for failure in found["failures"]}):
        console.print(f"failed: {failure}")


def row(found: dict[str, Any]) -> list[str]:
    """One level's table row."""
    times = [found[name] for name in ("first_chunk_seconds", "gap_seconds", "prompt_to_picture_seconds")]
    return [
        str(found["sessions"]),
        str(found["sessions_that_stalled"]),
        f"{100 * found['deadline_attainment']:.2f} %",
        *("/".join(f"{1e3 * each[name]:.0f}" for name in ("p50", "p95", "p99")) for each in times),
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """Plot deadlines met and latencies by number of sessions. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    levels = report["levels"]
    counts = [found["sessions"] for found in levels]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    met, waits = figure.subplots(1, 2)
    met.plot(counts, [100 * found["deadline_attainment"] for found in levels], "o-")
    met.set(xlabel="sessions at once", ylabel="deadlines met, %")
    for key, label in (("gap_seconds", "gap"), ("prompt_to_picture_seconds", "prompt to picture")):
        for share, style in (("p50", "-"), ("p99", "--")):
            waits.plot(counts, [found[key][share] for found in levels], style, marker="o", label=f"{label}, {share}")
    waits.set(xlabel="sessions at once", ylabel="seconds", ylim=(0, None))
    waits.legend()
    figure.suptitle(f"{report['model']['id']} on {report['machine']['processor']}")
    figure.savefig(path)
