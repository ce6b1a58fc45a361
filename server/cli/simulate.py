"""``pafu simulate``: how many GPUs a day of viewers needs, from the results of ``pafu bench``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from server.cli.console import fail
from server.cli.options import takes_groups

if TYPE_CHECKING:
    from server.simulate.day import Cluster, Demand


@dataclass(frozen=True)
class DemandOptions:
    """Who comes."""

    viewers_per_hour: Annotated[float, typer.Option(min=0.01, help="viewers who arrive in the busiest hour")] = 60.0
    stay_minutes: Annotated[float, typer.Option(min=0.1, help="average minutes that a viewer stays")] = 5.0
    patience: Annotated[float, typer.Option(min=0, help="longest wait for a place, in seconds")] = 120.0

    def demand(self) -> Demand:
        from server.simulate.day import Demand

        return Demand(per_hour=self.viewers_per_hour, stay=60 * self.stay_minutes, patience=self.patience)


@dataclass(frozen=True)
class GpuOptions:
    """What each GPU does."""

    places: Annotated[
        int | None, typer.Option(min=1, help="sessions per GPU; default: as many as run in real time")
    ] = None
    lead_seconds: Annotated[float, typer.Option(min=0.1, help="seconds of media generated ahead")] = 1.25
    hours_between_failures: Annotated[
        float | None, typer.Option(min=0.01, help="mean time between failures of one GPU; default: none")
    ] = None
    restart_seconds: Annotated[float, typer.Option(min=0, help="seconds until a failed GPU serves again")] = 60.0
    rollout_at: Annotated[str, typer.Option(help="hours of rollouts, separated by commas")] = ""
    gpu_hour: Annotated[float, typer.Option(min=0, help="price per GPU hour, in any currency")] = 2.5

    def clusters(self, sizes: Sequence[int], measured: dict[str, Any]) -> list[Cluster]:
        """One cluster per size, of GPUs on which ``pafu bench`` reported ``measured``. Raises ValueError."""
        from server.simulate import report
        from server.simulate.day import Cluster

        times = _numbers(self.rollout_at, "--rollout-at", float, below=24) if self.rollout_at else []
        return [
            Cluster(
                gpus=size,
                places=self.places or report.places_of(measured),
                hours_between_failures=self.hours_between_failures or math.inf,
                restart=self.restart_seconds,
                rollouts=tuple(times),
            )
            for size in sizes
        ]


@takes_groups
def simulate(
    *,
    bench: Annotated[Path, typer.Argument(help="result of `pafu bench -o FILE` on such a GPU")],
    gpus: Annotated[str, typer.Option(help="numbers of GPUs to try, separated by commas")] = "1,2,4,8",
    viewers: DemandOptions,
    each: GpuOptions,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same day")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    plot: Annotated[Path | None, typer.Option(help="plot of the day (.png, .svg); needs matplotlib")] = None,
) -> None:
    """Simulate a day of viewers on clusters of several sizes: waits, refusals, late chunks, cost."""
    from server.simulate import report

    try:
        measured = json.loads(bench.read_text())
        service = report.service_of(measured)
        clusters = each.clusters(_numbers(gpus, "--gpus", int), measured)
    except (OSError, ValueError) as error:
        raise fail(f"{bench}: {error.strerror}" if isinstance(error, OSError) else str(error), 2) from None
    asked = partial(report.Question, service=service, lead=each.lead_seconds, gpu_hour=each.gpu_hour, seed=seed)
    console = Console(stderr=True)
    answers = [
        report.answer(asked(demand=viewers.demand(), cluster=cluster))
        for cluster in track(clusters, "simulating", console=console, disable=not console.is_terminal)
    ]
    rows: list[dict[str, Any]] = [row for row, _, _ in answers]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
    else:
        report.show(rows, Console(highlight=False))
    if plot is not None:
        try:
            report.plot(rows, [day for _, day, _ in answers], answers[-1][2], plot)
        except (ImportError, OSError, ValueError) as error:
            raise fail(f"no plot: {error} (matplotlib: pip install 'pafu[distill]')") from None


def _numbers(text: str, option: str, kind: type[int] | type[float], below: float = math.inf) -> list[Any]:
    """Parse comma-separated numbers. Raises ValueError, which names the option."""
    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; give numbers separated by commas, for example 1,2,4") from None
    if numbers and max(numbers) >= below:
        raise ValueError(f"{option} is {text!r}; each must be less than {below:g}")
    if not numbers or min(numbers) < (1 if kind is int else 0):
        raise ValueError(f"{option} is {text!r}; give at least one number, each {1 if kind is int else 0} or more")
    return numbers
