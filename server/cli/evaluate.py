"""``pafu eval``: command line of ``model.distill.evaluation.compare`` and, for models without a camera,
``model.distill.evaluation.films``."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from server.cli.console import fail, say, settings_from
from server.cli.offline import BESIDE, DeviceOptions, PartOptions, known, load_for_work, options_named, prepare
from server.cli.options import takes_groups

if TYPE_CHECKING:
    from model.distill.evaluation.films import FilmSettings
    from model.spec import ModelSpec

Numbers = Annotated[str | None, typer.Option(help="latent frames, comma-separated; default 1,1.5,2,3,4,6")]
CALLED = {"weights": "--weights", **BESIDE}  # options by part


@dataclass(frozen=True)
class ModelOptions:
    """The model to evaluate; ``PartOptions`` name its other files."""

    model: Annotated[str, typer.Option(help="model name")] = "pafu-mini"
    weights: Annotated[Path | None, typer.Option(help="folder with the weights; default: the shipped ones")] = None
    head: Annotated[Path | None, typer.Option(help="salience head; default: the file next to the weights")] = None


@dataclass(frozen=True)
class CellOptions:
    """What is compared; None: the default of the model's kind."""

    policies: Annotated[str | None, typer.Option(help="comma-separated; default: all")] = None
    budgets: Numbers = None
    seed: Annotated[int, typer.Option(min=0, help="selects other tours of the split")] = 0

    def given(self) -> dict[str, Any]:
        """The values that were given, by setting. Exits with one line for budgets that are no numbers."""
        given: dict[str, Any] = {"seed": self.seed}
        if self.policies is not None:
            given["policies"] = tuple(part.strip() for part in self.policies.split(",") if part.strip())
        if self.budgets is not None:
            given["budgets"] = numbers(self.budgets)
        return given


@dataclass(frozen=True)
class TourOptions:
    """Fields of EvalSettings as options; None: the default, which ``--quick`` changes."""

    tours: Annotated[int | None, typer.Option(min=0, help="tours per cell")] = None
    tour_chunks: Annotated[int | None, typer.Option(min=4, help="length of a tour, in chunks")] = None
    announced: Annotated[int | None, typer.Option(min=0, help="announced tours per cell, of the same length")] = None
    called: Annotated[int | None, typer.Option(min=0, help="tours per cell in which places are called back")] = None
    veiled: Annotated[int | None, typer.Option(min=0, help="tours per cell in which fog comes and goes")] = None
    absences: Annotated[int | None, typer.Option(min=0, help="videos with an absence per cell")] = None
    changes: Annotated[int | None, typer.Option(min=0, help="videos with a prompt change per cell")] = None
    change_chunks: Annotated[
        int | None, typer.Option(min=4, help="length of a video with a prompt change, in chunks")
    ] = None
    mirrors: Annotated[int | None, typer.Option(min=0, help="videos per cell that return the way they came")] = None
    drifts: Annotated[int | None, typer.Option(min=0, help="long videos per cell")] = None
    drift_chunks: Annotated[
        int | None, typer.Option(min=4, help="length of a long video, in chunks; 160 are two minutes")
    ] = None
    together: Annotated[int | None, typer.Option(min=1, help="streams per batch")] = None
    split: Annotated[
        str, typer.Option(help="data split: tune, choose or report; never report on a split used for choices")
    ] = "report"
    pose: Annotated[bool, typer.Option(help="whether policies see keys rotated by position")] = True
    kv_dtype: Annotated[str, typer.Option(help="storage type of pruned caches: auto, int8, int4")] = "auto"
    host_latents: Annotated[
        float | None, typer.Option(help="host memory of policies that recall, in latent frames; default: a server's")
    ] = None


@dataclass(frozen=True)
class FilmOptions:
    """For models without a camera."""

    prompts: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="for models without a camera: file with one prompt per line"),
    ] = None
    minutes: Annotated[
        str | None, typer.Option(help="for models without a camera: video lengths, comma-separated; default 1")
    ] = None
    samples: Annotated[int, typer.Option(min=1, help="for models without a camera: videos per prompt")] = 1


@takes_groups
def evaluate(
    *,
    out: Annotated[
        Path, typer.Option(help="folder for cells, table, JSON and plots; an earlier run is resumed")
    ] = Path("runs/eval"),
    which: ModelOptions,
    probe: Annotated[
        Path | None,
        typer.Option(help="a run of pafu distill mini whose probe judges the pictures; default: the shipped probe"),
    ] = None,
    cells: CellOptions,
    tours: TourOptions,
    films: FilmOptions,
    beside: PartOptions,
    quick: Annotated[
        bool, typer.Option("--quick", help="four policies, one budget and few streams; takes minutes")
    ] = False,
    where: DeviceOptions,
) -> None:
    """Compare cache policies at equal budgets: on held-out scenes, or on videos for models without a camera."""
    compared = cells.given()
    prepare(where)
    if not has_camera(which.model):
        return _films(which, beside, where.device, out, films, compared)
    if films.prompts or films.minutes:
        raise fail(f"--prompts and --minutes are for models without a camera; {which.model} is evaluated on tours", 2)
    compared |= {name: value for name, value in asdict(tours).items() if value is not None}
    _publish(_evaluation(which, beside, where.device, out, probe, quick, compared), out)


def _evaluation(
    which: ModelOptions,
    beside: PartOptions,
    device: str,
    out: Path,
    probe: Path | None,
    quick: bool,
    given: dict[str, Any],
) -> dict[str, Any]:
    """Run the cells missing in ``out``; exits with one line on errors that the user can fix."""
    import torch

    from cache.errors import CacheError
    from model.distill.evaluation.compare import QUICK, EvalError, EvalSettings, Evaluation
    from model.distill.evaluation.probe import shipped_probe
    from model.distill.recipe import trained_probe
    from model.spec import PAFU_MINI, SpecError
    from model.weights import WeightsError

    try:
        settings = dataclasses.replace(QUICK if quick else EvalSettings(), **given)
        with options_named(CALLED):
            loaded = load_for_work(which.model, which.weights, torch.device(device), which.head, parts=beside.parts())
        shipped = shipped_probe() if loaded.spec == PAFU_MINI else None
        reader = shipped if probe is None else trained_probe(probe)
        return Evaluation(loaded, out, settings, reader).run(Console(stderr=True))
    except SpecError as error:
        raise fail(str(error), 2) from None
    except (EvalError, WeightsError, CacheError, FileNotFoundError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command continues with the cells missing in {out}", 130) from None


def _publish(result: dict[str, Any], out: Path) -> None:
    from model.distill.evaluation.compare_report import markdown, plots, show

    (out / "eval.md").write_text(markdown(result))
    show(result, Console(highlight=False))
    plots(result, out)
    say(f"table, JSON and plots are in {out}")


def has_camera(model: str) -> bool:
    """Whether the model has a camera, for tours; exits with one line for an unknown model."""
    from model.spec import SpecError, spec_named

    try:
        return spec_named(model).camera is not None
    except SpecError as error:
        raise fail(str(error)) from None


def _films(
    which: ModelOptions, beside: PartOptions, device: str, out: Path, films: FilmOptions, given: dict[str, Any]
) -> None:
    """Generate the videos missing in ``out`` and report the measures."""
    from cache.errors import CacheError
    from model.distill.evaluation.compare import EvalError
    from model.distill.evaluation.films import Films
    from model.spec import SpecError
    from model.weights import WeightsError
    from server.worker.generator import StartError, load_model

    weights, head = (None if part is None else str(part) for part in (which.weights, which.head))
    try:
        parts = beside.parts()
        settings = film_settings(known(which.model, parts.size), films, given)
        with options_named(CALLED):
            check_memory(which, beside, device, max(settings.budgets))
        loaded, _ = load_model(which.model, weights, device, head, parts, CALLED)
        result = Films(loaded, out, settings).run(Console(stderr=True))
    except SpecError as error:
        raise fail(str(error), 2) from None
    except (EvalError, WeightsError, CacheError, StartError, OSError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command continues with the videos missing in {out}", 130) from None
    _publish_films(result, out)


def film_settings(spec: ModelSpec, films: FilmOptions, given: dict[str, Any]) -> FilmSettings:
    """The settings: the model's own cache against policy "window" unless ``given`` names others. Raises EvalError."""
    from model.distill.evaluation.films import FilmSettings

    usual = {"policies": (spec.cache_policy, "window"), "budgets": (spec.cache_budget_latents,)}
    minutes = numbers(films.minutes or "1", "minutes")
    return FilmSettings(prompts=lines_of(films.prompts), minutes=minutes, samples=films.samples, **{**usual, **given})


def _publish_films(result: dict[str, Any], out: Path) -> None:
    from model.distill.evaluation.films_report import markdown, notes, table

    (out / "eval.md").write_text(markdown(result))
    console = Console(highlight=False)
    console.print(table(result))
    for note in notes(result):
        say(note)
    say(f"videos, table and JSON are in {out}")


def lines_of(prompts: Path | None) -> tuple[str, ...]:
    """The prompts in a file. Raises EvalError if it is no text."""
    from model.distill.evaluation.compare import EvalError

    if prompts is None:
        return ()
    try:
        return tuple(line.strip() for line in prompts.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise EvalError(f"{prompts} is not UTF-8 text: write one prompt per line") from error


def check_memory(which: ModelOptions, beside: PartOptions, device: str, budget: float) -> None:
    """Exit with a table of what would fit if a large model does not. Raises WeightsError for its files."""
    from server.cli.memory import check_weights, count, show
    from server.engine.slots import slots_for

    given = {**asdict(beside), "model": which.model, "weights": which.weights, "salience_head": which.head}
    flags = {name: str(value) for name, value in given.items() if value is not None}
    settings = settings_from(**flags, device=device, cache_budget_latents=budget)
    if not settings.spec.public:
        return
    check_weights(settings)
    rows, too_large = count(settings, slots_for(settings)[0])
    if too_large:
        show(rows, Console(stderr=True, highlight=False))
        raise fail(too_large)


def numbers(text: str, what: str = "budgets") -> tuple[float, ...]:
    """Parse comma-separated numbers; exits with one line on an error."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        unit = "minutes like 0.5,1" if what == "minutes" else "latent frames like 1,1.5,2"
        raise fail(f"{what} is {text!r}; give {unit}", 2) from None
