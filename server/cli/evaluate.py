"""``pafu eval``: compare cache policies at equal budgets; the command line around ``model.distill.compare``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from server.cli.console import fail, say
from server.cli.distill import Device, Model, Threads, load_for_work, prepare

Numbers = Annotated[str | None, typer.Option(help="latent frames, comma-separated; default 1,1.5,2,3,4,6")]


# settings that are options of the same name
PLAIN = (
    *(
        "tours",
        "tour_chunks",
        "announced",
        "absences",
        "changes",
        "change_chunks",
        "drifts",
        "drift_chunks",
        "together",
    ),
    *("split", "seed"),
)


def evaluate(
    out: Annotated[Path, typer.Option(help="folder for cells, table, JSON and plots; a run there goes on")] = Path(
        "runs/eval"
    ),
    model: Model = "pafu-mini",
    weights: Annotated[Path | None, typer.Option(help="folder with the weights; default: those that ship")] = None,
    head: Annotated[Path | None, typer.Option(help="salience head; default: the one beside the weights")] = None,
    probe: Annotated[
        Path | None, typer.Option(help="a run of pafu distill mini, whose probe reads the pictures (adherence)")
    ] = None,
    policies: Annotated[str | None, typer.Option(help="comma-separated; default: all")] = None,
    budgets: Numbers = None,
    tours: Annotated[int | None, typer.Option(min=1, help="tours a cell")] = None,
    tour_chunks: Annotated[int | None, typer.Option(min=4, help="length of a tour")] = None,
    announced: Annotated[int | None, typer.Option(min=1, help="announced tours a cell, as long as the others")] = None,
    absences: Annotated[int | None, typer.Option(min=1, help="videos with an absence a cell (with --probe)")] = None,
    changes: Annotated[int | None, typer.Option(min=1, help="videos with a prompt change a cell")] = None,
    change_chunks: Annotated[int | None, typer.Option(min=4, help="their length")] = None,
    drifts: Annotated[int | None, typer.Option(min=1, help="long videos a cell")] = None,
    drift_chunks: Annotated[int | None, typer.Option(min=4, help="their length; 160 are two minutes")] = None,
    together: Annotated[int | None, typer.Option(min=1, help="streams in one batch")] = None,
    split: Annotated[str, typer.Option(help="tune, choose or report; choices and figures never share one")] = "report",
    seed: Annotated[int, typer.Option(min=0, help="other tours of that split")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="one budget, few streams: minutes on two cores")] = False,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Compare all cache policies at equal budgets on held-out scenes."""
    given = {name: value for name, value in locals().items() if name in PLAIN and value is not None}
    if policies is not None:
        given["policies"] = tuple(part.strip() for part in policies.split(",") if part.strip())
    if budgets is not None:
        given["budgets"] = numbers(budgets)
    prepare(device, threads)
    result = _evaluation(model, weights, head, device, out, probe, quick, given)
    _publish(result, out)


def _evaluation(
    model: str,
    weights: Path | None,
    head: Path | None,
    device: str,
    out: Path,
    probe: Path | None,
    quick: bool,
    given: dict[str, Any],
) -> dict[str, Any]:
    """Run what is missing in ``out``; what the user can mend ends in one line."""
    import torch

    from cache.errors import CacheError
    from model.distill.compare import QUICK, EvalError, EvalSettings, Evaluation
    from model.distill.recipe import trained_probe
    from model.weights import WeightsError

    try:
        settings = dataclasses.replace(QUICK if quick else EvalSettings(), **given)
        loaded = load_for_work(model, weights, torch.device(device), head)
        reader = None if probe is None else trained_probe(probe)
        return Evaluation(loaded, out, settings, reader).run(Console(stderr=True))
    except (EvalError, WeightsError, CacheError, FileNotFoundError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command goes on with the cells that are missing in {out}", 130) from None


def _publish(result: dict[str, Any], out: Path) -> None:
    from model.distill.compare_report import markdown, plots, show

    (out / "eval.md").write_text(markdown(result))
    show(result, Console(highlight=False))
    plots(result, out)
    say(f"table, JSON and plots are in {out}")


def numbers(text: str) -> tuple[float, ...]:

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise fail(f"budgets is {text!r}; give latent frames like 1,1.5,2", 2) from None
