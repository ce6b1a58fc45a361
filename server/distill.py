"""``pafu distill``: the offline recipes of ``model/distill`` behind the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train models and judge them, offline.", no_args_is_help=True)

EXTRA = "the training recipes need more packages: run pip install -e '.[distill]'"


@app.command()
def mini(
    stage: Annotated[str, typer.Option(help="basis, clips, vae, probe, teacher, student, ship, judge, or all")] = "all",
    out: Annotated[Path, typer.Option(help="folder for checkpoints, curves and samples")] = Path("runs/mini"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="training steps (clips for stage clips); default: the recipe's")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="torch threads; 0 uses all cores")] = 0,
) -> None:
    """Train pafu-mini from nothing; a stage that was interrupted goes on from its last checkpoint."""
    from server.cli import fail

    try:
        from model.distill.recipe import RecipeError, run
    except ImportError as error:
        raise fail(f"{error.name} is missing; {EXTRA}") from None
    import torch

    from server.process import usable_cores

    torch.set_num_threads(threads or usable_cores())
    try:
        run(stage, out, steps)
    except (RecipeError, FileNotFoundError, FloatingPointError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command goes on from the last checkpoint in {out}", 130) from None
