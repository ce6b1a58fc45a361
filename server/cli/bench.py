"""The commands ``pafu bench``, ``pafu bench sessions`` and ``pafu bench soak``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from model import gpu
from server.cli.console import fail, print_json
from server.cli.options import Json, takes_settings
from server.cli.output import FIGURES, STDOUT, OutputError, check
from server.config import ConfigError, Settings
from server.engine.slots import slots_for

app = typer.Typer(help="Measure one stream, many sessions at once, or an hour of streaming.")

Url = Annotated[str | None, typer.Option(help="address of a running server; default: start one")]
Output = Annotated[str | None, typer.Option("-o", "--output", help="JSON file for all figures, - for stdout")]
Plot = Annotated[Path | None, typer.Option(help="plot of the figures (.png, .svg); needs matplotlib")]
SERVER = ("model", "weights", "device", "threads")  # settings of the server that it starts
Report = dict[str, Any]


@app.callback(invoke_without_command=True)
@takes_settings(*SERVER)
def bench(
    settings: Settings,
    context: typer.Context,
    url: Url = None,
    seconds: Annotated[float, typer.Option(min=1, help="seconds of video to generate at full speed")] = 30.0,
    output: Output = None,
    as_json: Json = False,
    suite: Annotated[str | None, typer.Option(help="gpu: policies x budgets x execution modes, random weights")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="time limit of a suite")] = 6.0,
    out: Annotated[Path, typer.Option(help="folder for a suite's JSON, plot and profiles")] = Path("bench"),
    against: Annotated[
        Path | None, typer.Option(help="checkout of Pafu or Self-Forcing to compare with, in turns")
    ] = None,
) -> None:
    """Without a subcommand: one stream from prompt to encoded bytes, at full speed."""
    if context.invoked_subcommand is not None:
        return
    if suite is not None:
        return _suite(suite, settings, minutes, out, output, as_json)
    if against is not None:
        return _against(against, settings, output, as_json)
    from server.bench import single

    run = lambda given, console: single.bench(given, url, seconds, console)  # noqa: E731
    _run(run, single.show, settings, output, as_json)


def _suite(name: str, settings: Settings, minutes: float, out: Path, output: str | None, as_json: bool) -> None:
    if name != "gpu":
        raise fail(f"there is no suite {name!r}; available: gpu", 2)
    import torch

    from model.cost.speed import WAYS, Suite, decoder_of
    from model.spec import SpecError, spec_named

    if set(settings.device) & set(",+"):
        raise fail(f"--device: the suite measures one device, not {settings.device!r}; name one", 2)
    try:
        wanted = slots_for(settings)[0].device
    except ConfigError as error:
        raise fail(settings.explained(error)) from None
    try:
        spec = spec_named(settings.model if "model" in settings.model_fields_set else "self-forcing")
    except SpecError as error:
        raise fail(str(error), 2) from None

    def measure(_: Settings, console: Console) -> Report:
        def tell(row: Report) -> None:
            console.print(json.dumps(row), markup=False, soft_wrap=True)

        return Suite(spec, decoder_of(spec), torch.device(wanted), out, minutes, tell).run(WAYS)

    def show(report: Report, console: Console) -> None:
        left_out = f", {len(report['left_out'])} left out" if report["left_out"] else ""
        console.print(f"{len(report['rows'])} rows{left_out}: {out}", markup=False, soft_wrap=True)

    _run(measure, show, settings, output, as_json, f"{out} has the rows so far")


def _against(root: Path, settings: Settings, output: str | None, as_json: bool) -> None:
    from model.spec import SpecError
    from model.weights import preferred_dtype
    from server.bench.against import AgainstError, compare, setups
    from server.process import usable_cores

    device = "cuda" if settings.device != "cpu" and gpu.count() else "cpu"
    model = settings.model if "model" in settings.model_fields_set else "self-forcing"
    given = settings.model_dump(exclude_unset=True, include=set(SERVER))
    preferred = str(preferred_dtype(device)).removeprefix("torch.")
    dtypes = sorted({"float32", preferred}) if device == "cpu" else [preferred]

    def measure(_: Settings, console: Console) -> Report:
        tell = lambda line: console.print(line, markup=False, soft_wrap=True)  # noqa: E731
        try:
            found = compare(root, setups(model, device, settings.threads or usable_cores(), dtypes), given, tell)
        except (AgainstError, SpecError) as error:
            raise fail(str(error)) from None
        return {"comparisons": [each.figures() for each in found]}

    def show(report: Report, console: Console) -> None:
        table = Table("", "here", "there", "ratio", title="pictures per second", title_justify="left")
        for row in report["comparisons"]:
            table.add_row(row["what"], f"{row['ours']:.3g}", f"{row['theirs']:.3g}", f"{row['ratio']:.2f}")
        console.print(table)

    _run(measure, show, settings, output, as_json)


@app.command()
@takes_settings(*SERVER)
def sessions(
    settings: Settings,
    url: Url = None,
    seconds: Annotated[float, typer.Option(min=2, help="how long each viewer plays, in seconds")] = 20.0,
    change_every: Annotated[
        float, typer.Option(min=0, help="seconds between a viewer's prompt changes; 0: none")
    ] = 4.0,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="largest number of viewers to try")] = 64,
    output: Output = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """How many viewers can be served in real time at once, and their latencies."""
    from server.bench import sessions as many

    run = lambda given, console: many.bench(given, url, seconds, change_every, most, console)  # noqa: E731
    report = _run(run, many.show, settings, output, as_json)
    if plot is not None:
        _draw(lambda: many.plot(report, plot))


@app.command()
@takes_settings(*SERVER)
def soak(
    settings: Settings,
    url: Url = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="how long to stream, in minutes")] = 60.0,
    viewers: Annotated[int, typer.Option(min=1, help="number of viewers")] = 1,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two CSV rows")] = 10.0,
    table: Annotated[Path, typer.Option("--csv", help="CSV file")] = Path("soak.csv"),
    output: Output = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Stream for a long time; record memory, open files and chunk time as CSV and a plot."""
    from server.bench import soak as long

    run = lambda given, console: long.bench(given, url, minutes, viewers, every, table, console)  # noqa: E731
    report = _run(run, long.show, settings, output, as_json, f"{table} has the rows so far")
    if plot is not None:
        title = f"{report['model']['id']}, {viewers} viewers, {report['machine']['processor']}"
        _draw(lambda: long.plot(table, plot, title))


def _run(
    measure: Callable[[Settings, Console], Report],
    show: Callable[[Report, Console], None],
    settings: Settings,
    output: str | None,
    as_json: bool,
    kept: str = "nothing was written",
) -> Report:
    """Run a benchmark, with progress on stderr and figures on stdout. ``kept``: what is left after Ctrl-C."""
    from server.bench.target import BenchError, as_text

    try:
        if output is not None:
            check(output, FIGURES)
        report = measure(settings, Console(stderr=True, highlight=False))
        if output is not None and output != STDOUT:
            Path(output).write_text(as_text(report))
    except (BenchError, OutputError) as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(f"{error.filename or output}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise fail(f"stopped before the end; {kept}", 130) from None
    if as_json or output == STDOUT:
        print_json(report)
    else:
        show(report, Console(highlight=False))
    return report


def _draw(draw: Callable[[], None]) -> None:

    try:
        draw()
    except (ImportError, OSError, ValueError) as error:
        raise fail(f"no plot: {error}; the figures are above (matplotlib: pip install 'pafu[distill]')") from None
