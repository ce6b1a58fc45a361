"""``pafu simulate``: how many GPUs a day's viewers need, from what a bench measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from server.cli.console import fail


def simulate(
    bench: Annotated[Path, typer.Argument(help="what `pafu bench -o FILE` wrote on such a GPU")],
    gpus: Annotated[str, typer.Option(help="numbers of GPUs to try, with commas")] = "1,2,4,8",
    viewers_per_hour: Annotated[float, typer.Option(min=0.01, help="that come in the busiest hour")] = 60.0,
    stay_minutes: Annotated[float, typer.Option(min=0.1, help="how long a viewer stays, on average")] = 5.0,
    patience: Annotated[float, typer.Option(min=0, help="seconds that a viewer waits for a place")] = 120.0,
    places: Annotated[
        int | None, typer.Option(min=1, help="sessions on a GPU; default: what plays in real time")
    ] = None,
    lead_seconds: Annotated[float, typer.Option(min=0.1, help="media ahead of a viewer")] = 1.25,
    hours_between_failures: Annotated[float | None, typer.Option(min=0.01, help="of one GPU; default: never")] = None,
    restart_seconds: Annotated[float, typer.Option(min=0, help="until a GPU that died serves again")] = 60.0,
    rollout_at: Annotated[str, typer.Option(help="hours at which a new version is rolled out, with commas")] = "",
    gpu_hour: Annotated[float, typer.Option(min=0, help="price of an hour of one GPU, in any currency")] = 2.5,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same day")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    plot: Annotated[Path | None, typer.Option(help="picture of the day (.png, .svg); needs matplotlib")] = None,
) -> None:
    """Play a day of viewers against clusters of several sizes: waiting, refusals, late chunks, cost."""
    from server.simulate import report
    from server.simulate.day import Cluster, Demand

    try:
        service = report.service_of(json.loads(bench.read_text()))
        sizes = _numbers(gpus, "--gpus", int)
        rollouts = tuple(_numbers(rollout_at, "--rollout-at", float)) if rollout_at else ()
    except (OSError, ValueError) as error:
        raise fail(f"{bench}: {error}" if isinstance(error, OSError) else str(error), 2) from None
    demand = Demand(per_hour=viewers_per_hour, stay=60 * stay_minutes, patience=patience)
    answers = []
    console = Console(stderr=True)
    for size in track(sizes, "a day for each size", console=console, disable=not console.is_terminal):
        cluster = Cluster(
            gpus=size,
            places=places or report.places_of(service),
            hours_between_failures=hours_between_failures or math.inf,
            restart=restart_seconds,
            rollouts=rollouts,
        )
        question = report.Question(
            service=service, lead=lead_seconds, demand=demand, cluster=cluster, gpu_hour=gpu_hour, seed=seed
        )
        answers.append(report.answer(question))
    rows: list[dict[str, Any]] = [row for row, _, _ in answers]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, default=str))
    else:
        report.show(rows, Console(highlight=False))
    if plot is not None:
        try:
            report.plot(rows, [day for _, day, _ in answers], answers[-1][2], plot)
        except (ImportError, OSError, ValueError) as error:
            raise fail(f"no picture: {error} (matplotlib: pip install 'pafu[distill]')") from None


def _numbers(text: str, option: str, kind: type[int] | type[float]) -> list[Any]:
    """The numbers in ``text``. Raises ValueError naming the option."""
    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; allowed are numbers with commas between, for example 1,2,4") from None
    if not numbers or min(numbers) < (1 if kind is int else 0):
        raise ValueError(f"{option} is {text!r}; it needs at least one number, of {1 if kind is int else 0} or more")
    return numbers
