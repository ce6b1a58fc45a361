"""``pafu simulate`` against the real server: the share of late chunks, predicted and measured side by side.

    python tests/soak/prediction.py                     # two CPU workers with a thread each, 4 to 14 viewers
    python tests/soak/prediction.py --plot prediction.png

First it measures one stream on one worker, as ``pafu bench -o FILE`` does, while a second stream keeps the other worker
busy. Those chunk times are all that the prediction knows. Then it plays each number of viewers for real. Run it on a
machine that does nothing else: the viewers are in this process and take some of the two cores as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2


async def measured(url: str, counts: list[int], seconds: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One worker's measurements in the format of a benchmark, and those of each level."""
    from server.bench.sessions import Plan, level
    from server.bench.single import throughput
    from server.bench.target import describe

    model = describe(url)["model"]
    quiet = Console(stderr=True, quiet=True)
    both = await asyncio.gather(*(throughput(url, model, seconds, quiet) for _ in range(WORKERS)))
    plan = Plan(seconds, 0.0, max(counts), model["fps"], tuple(model["examples"]))
    levels = []
    with Progress() as progress:
        for count in counts:
            task = progress.add_task(f"{count} viewers", total=count * plan.pictures)
            levels.append(await level(url, count, plan, progress, task))
    return {"model": model, "throughput": both[0]}, levels


def compare(bench: dict[str, Any], levels: list[dict[str, Any]], lead: float, seconds: float) -> list[dict[str, Any]]:
    """One row per level. ``late``: share of late chunks; ``rate``: pictures per second of all viewers."""
    from server.bench.sessions import COME_WITHIN
    from server.simulate.report import places_of, service_of
    from server.simulate.worker import load_of

    service = service_of(bench)
    chunks = max(2, round(seconds / service.media_seconds))
    rows = []
    for found in levels:
        shares = [found["sessions"] // WORKERS + (number < found["sessions"] % WORKERS) for number in range(WORKERS)]
        within = COME_WITHIN * found["sessions"]
        runs = [load_of(service, share, lead, chunks, seed, within) for share in shares for seed in range(40)]
        late = sum(run.missed * run.viewers for run in runs) / sum(run.viewers for run in runs)
        rows.append(
            {
                "viewers": found["sessions"],
                "late_predicted": round(late, 3),
                "late_measured": round(1 - found["deadline_attainment"], 3),
                "places_by_admission": WORKERS * places_of(bench),
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for kind, line in (("predicted", "o--"), ("measured", "s-")):
        values = [100 * row[f"late_{kind}"] for row in rows]
        axes.plot([row["viewers"] for row in rows], values, line, label=kind)
    axes.set(xlabel="viewers", ylabel="late chunks, %")
    axes.legend()
    figure.savefig(path)


def main() -> int:
    from server.bench.launch import launched
    from server.config import Settings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--viewers", type=lambda text: [int(part) for part in text.split(",")], default=[4, 8, 10, 12, 14]
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of video that each viewer plays")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    most = max(options.viewers)
    wanted = {"device": f"cpu:{WORKERS}", "threads": WORKERS, "max_sessions": most, "max_lead_seconds": 3600.0}
    with launched(**wanted) as server:
        url = server.url()
        server.wait_ready()
        bench, levels = asyncio.run(measured(url, options.viewers, options.seconds))
    rows = compare(bench, levels, Settings.model_fields["lead_seconds"].default, options.seconds)
    found = {name: bench["throughput"][name] for name in ("chunk_seconds", "pictures_per_second")}
    print(json.dumps({**found, "levels": rows}, indent=1))
    if options.plot:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "clients" / "python")]
    sys.exit(main())
