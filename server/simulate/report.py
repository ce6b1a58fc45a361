"""Reports of a simulated day: figures, a table, a plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from server.bench.target import quantile
from server.engine.admission import SPEED_MARGIN
from server.simulate.day import HOUR, Cluster, Day, Demand, Simulation
from server.simulate.worker import Load, Service, loads


@dataclass(frozen=True, kw_only=True)
class Question:
    """The inputs of one simulation. ``lead``: seconds of media generated ahead; ``gpu_hour``: price."""

    service: Service
    lead: float
    demand: Demand
    cluster: Cluster
    gpu_hour: float
    seed: int
    hours: float = 24.0
    chunks: int = 400


def service_of(bench: dict[str, Any]) -> Service:
    """The chunk times from a ``pafu bench`` report. Raises ValueError if one is missing."""
    try:
        spread, model = bench["throughput"]["chunk_seconds"], bench["model"]
        p50, p95, most = (float(spread[name]) for name in ("p50", "p95", "max"))
        media = model["chunk_frames"] / model["fps"]
        rate = bench["throughput"].get("pictures_per_second")
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is not a report of `pafu bench -o FILE`: {error} is missing") from error
    service = Service(((0.0, p50), (0.5, p50), (0.95, p95), (1.0, most)), media)
    # A chunk is decoded during the next one's passes, so a worker is done with it earlier than its viewer has it: on
    # average, after the time in which it made one at full speed.
    return service.times(min(1.0, model["chunk_frames"] / rate / service.mean)) if rate else service


def places_of(bench: dict[str, Any]) -> int:
    """Sessions per GPU that the server would admit by speed, from the bench that ``service_of`` has accepted. Admission
    counts a chunk's whole time, decoding included."""
    media = bench["model"]["chunk_frames"] / bench["model"]["fps"]
    return max(1, int(SPEED_MARGIN * media / bench["throughput"]["chunk_seconds"]["p50"]))


def answer(question: Question) -> tuple[dict[str, Any], Day, list[Load]]:
    """Run the simulation; returns its figures, the day, and the load for each number of viewers per GPU."""
    table = list(loads(question.service, question.cluster.places, question.lead, question.chunks, question.seed))
    simulation = Simulation(question.cluster, question.demand, table, question.service.media_seconds, question.seed)
    day = simulation.run(question.hours)
    return figures(question, day), day, table


def figures(question: Question, day: Day) -> dict[str, Any]:
    """The figures of a day: shares from 0 to 1, times in seconds, costs in the unit of ``gpu_hour``."""
    gpu_hours = question.cluster.gpus * question.hours
    viewer_hours = day.watched / HOUR
    waited = [wait for wait in day.waits if wait > 0]
    return {
        "gpus": question.cluster.gpus,
        "places": question.cluster.gpus * question.cluster.places,
        "arrived": day.arrived,
        "refused": day.refused,
        "refused_share": day.refused / max(1, day.arrived),
        "waited_share": len(waited) / max(1, day.served),
        "wait_p95_seconds": quantile(day.waits, 0.95) if day.waits else 0.0,
        "moved": day.moved,
        "viewer_hours": viewer_hours,
        "utilisation": day.busy / max(1.0, day.up),
        "deadlines_missed_share": day.missed / max(1.0, day.chunks),
        "sessions_per_gpu_mean": day.chunks * question.service.media_seconds / max(1.0, day.up),
        "sessions_per_gpu_busiest": max(viewers for _, viewers, _ in day.series) / question.cluster.gpus,
        "cost_per_viewer_hour": question.gpu_hour * gpu_hours / viewer_hours if viewer_hours else None,
        "cluster": {**asdict(question.cluster)},
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print one line per cluster size."""
    table = Table(title="one day, by number of GPUs", box=SIMPLE, pad_edge=False)
    columns = "GPUs, arrived, refused, waited, p95 wait, busy, late, per GPU, cost"
    for name in columns.split(", "):
        table.add_column(name, justify="right")
    for row in rows:
        cost = row["cost_per_viewer_hour"]
        table.add_row(
            str(row["gpus"]),
            f"{row['arrived']:,}",
            f"{100 * row['refused_share']:.1f} %",
            f"{100 * row['waited_share']:.1f} %",
            f"{row['wait_p95_seconds']:.0f} s",
            f"{100 * row['utilisation']:.0f} %",
            f"{100 * row['deadlines_missed_share']:.3f} %",
            f"{row['sessions_per_gpu_mean']:.1f}/{row['sessions_per_gpu_busiest']:.1f}",
            "-" if cost is None else f"{cost:.3f}",
        )
    console.print(table)
    console.print("late: chunks; per GPU: sessions, mean/max; cost: per viewer hour")


def plot(rows: list[dict[str, Any]], days: list[Day], table: list[Load], path: Path) -> None:
    """Plot viewers over the day, refusals by cluster size, and load by viewers per GPU. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    through, sizes, one = figure.subplots(1, 3)
    for row, day in zip(rows, days, strict=True):
        hours, viewers, _ = zip(*day.series, strict=True)
        through.plot(hours, viewers, label=f"{row['gpus']} GPUs")
    through.set(xlabel="hour of the day", ylabel="viewers")
    through.legend()
    gpus = [row["gpus"] for row in rows]
    sizes.plot(gpus, [100 * row["refused_share"] for row in rows], "o-", label="refused, %")
    sizes.plot(gpus, [100 * row["utilisation"] for row in rows], "s--", label="busy, %")
    sizes.set(xlabel="GPUs", ylim=(0, None))
    sizes.legend()
    one.plot([load.viewers for load in table], [100 * load.busy for load in table], "o-", label="busy, %")
    one.plot([load.viewers for load in table], [100 * load.missed for load in table], "s--", label="late chunks, %")
    one.set(xlabel="viewers on one GPU", ylim=(0, None))
    one.legend()
    figure.savefig(path)
