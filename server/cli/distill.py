"""``pafu distill``: command line of the training recipes in ``model/distill``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.console import fail, say
from server.cli.offline import (
    BESIDE,
    DeviceOptions,
    PartOptions,
    known,
    load_for_work,
    options_named,
    prepare,
)
from server.cli.options import takes_groups
from server.ipc.messages import Parts
from server.process import available_bytes

if TYPE_CHECKING:
    import torch

    from cache.config import CacheConfig
    from model.spec import ModelSpec

app = typer.Typer(help="Train and evaluate models, offline.", no_args_is_help=True)

OF_STUDENT, OF_TEACHER = {"weights": "--student", **BESIDE}, {"weights": "--teacher", **BESIDE}  # options by part


@app.command()
def mini(
    stage: Annotated[
        str,
        typer.Option(
            help="basis, clips, beginnings, vae, probe, words, teacher, student, ship, tune, decoder, decoder2 (of "
            "larger pictures), looks, judge, or all"
        ),
    ] = "all",
    out: Annotated[Path, typer.Option(help="folder for checkpoints, curves and samples")] = Path("runs/mini"),
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="training steps (number of clips for clips and beginnings); default: the recipe's"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, for words, teacher and student")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="torch threads; 0 uses all cores")] = 0,
) -> None:
    """Train pafu-mini from scratch; an interrupted stage resumes from its last checkpoint."""
    prepare(DeviceOptions(device, threads))
    from model.distill.recipe import RecipeError, run

    try:
        run(stage, out, steps, device)
    except (RecipeError, FileNotFoundError, FloatingPointError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command resumes from the last checkpoint in {out}", 130) from None


Out = Annotated[
    Path,
    typer.Option(
        file_okay=False, help="folder for clips, checkpoints, curves and the result; an earlier run is resumed"
    ),
]
Student = Annotated[
    Path | None, typer.Option(help="student's weights: folder, file or hub id; default: the shipped ones")
]
Model = Annotated[str, typer.Option(help="model name of student and teacher")]
Prompts = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="prompts, one per line; default: from the model's own world"),
]


@contextmanager
def _stage(out: Path, where: DeviceOptions) -> Iterator[tuple[int, int, torch.device]]:
    """Yields rank, number of processes and device; exits with one line on errors that the user can fix."""
    prepare(where)
    from cache.errors import CacheError
    from model.distill.stages.salience_stage import DistillError
    from model.distill.training import parallel
    from model.stream.stream_state import StreamError
    from model.weights import WeightsError

    try:
        yield parallel.start(where.device)
    except (DistillError, WeightsError, CacheError, StreamError, OSError, FloatingPointError) as error:
        raise fail(str(error)) from None
    except ValueError as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command resumes from the last checkpoint in {out}", 130) from None
    finally:
        parallel.stop()


@app.command()
@takes_groups
def asking(
    *,
    out: Out = Path("runs/asking"),
    student: Student = None,
    model: Model = "pafu-mini",
    clips: Annotated[int, typer.Option(min=1, help="clips to learn from")] = 96,
    held_out: Annotated[int, typer.Option(min=1, help="clips to report on")] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 1200,
    batch: Annotated[int, typer.Option(min=1, help="clips per step")] = 4,
    where: DeviceOptions,
) -> None:
    """Train a head that finds the cached tokens showing what a prompt names."""
    with _stage(out, where):
        import torch

        from model.distill.stages.asking_stage import AskingDistillation, AskingSettings
        from model.transformer.asking import ASKING_FILE

        with options_named(OF_STUDENT):
            loaded = load_for_work(model, student, torch.device("cpu"), heads=False)
        settings = AskingSettings(clips=clips, held_out=held_out, steps=steps, batch=batch)
        report = AskingDistillation(loaded, out, settings).run()
        rows = "; ".join(f"over {name} " + " ".join(f"{v:.2f}" for v in areas) for name, areas in report.items())
        say(f"{out / ASKING_FILE}; area under the curve by layer: {rows}")


@dataclass(frozen=True)
class SalienceOptions:
    """The fields of SalienceSettings as options."""

    clips: Annotated[int, typer.Option(min=1, help="clips to learn from")] = 128
    held_out: Annotated[int, typer.Option(min=1, help="clips to report on")] = 8
    steps: Annotated[int, typer.Option(min=1)] = 600
    batch: Annotated[int, typer.Option(min=1, help="clips per step and process")] = 4
    source: Annotated[
        str, typer.Option(help="source of clips: teacher (samples them) or world (renders the built-in world)")
    ] = "teacher"
    signal: Annotated[
        str, typer.Option(help="whose attention to learn: teacher, or student (its own future; ablation)")
    ] = "teacher"
    measure: Annotated[
        str, typer.Option(help="measure of salience: effect (of removing the token) or attention (that it receives)")
    ] = "effect"
    layers: Annotated[str, typer.Option(help="target: deep (one for all layers) or own (one per layer)")] = "deep"
    weights: Annotated[str, typer.Option(help="weights of low, diag, up")] = "1,0,1"
    reduce: Annotated[str, typer.Option(help="reduction over queries: max or mean")] = "max"
    scale: Annotated[str, typer.Option(help="normalization: rank, robust (per chunk), clip, or both")] = "rank"
    gap: Annotated[int, typer.Option(min=1, help="distance in chunks from which a query counts as future")] = 2
    noise_level: Annotated[float, typer.Option(help="noise level of the teacher's input clip, 0 to 1")] = 0.35
    loss: Annotated[str, typer.Option(help="regression or ranking")] = "regression"
    dream_steps: Annotated[int, typer.Option(min=1, help="sampling steps of the teacher")] = 20
    guidance: Annotated[float, typer.Option(help="classifier-free guidance of the teacher; 1: none")] = 1.0
    tokens: Annotated[int, typer.Option(min=2, help="random tokens per clip that the head learns from")] = 2048


@app.command()
@takes_groups
def salience(
    *,
    teacher: Annotated[
        Path, typer.Option(help="bidirectional teacher: folder, file or hub id of weights, or a run of the recipe")
    ],
    out: Out = Path("runs/salience"),
    student: Student = None,
    model: Model = "pafu-mini",
    teacher_model: Annotated[str | None, typer.Option(help="the teacher's model name, if different")] = None,
    prompts: Prompts = None,
    learning: SalienceOptions,
    beside: PartOptions,
    where: DeviceOptions,
) -> None:
    """Distill a salience head for a student from a bidirectional teacher.

    Under torchrun, each process uses its own GPU.
    """
    with _stage(out, where) as (rank, processes, own):
        import torch

        from model.distill.stages.needs import salience_bytes
        from model.distill.stages.salience_stage import SalienceDistillation, SalienceSettings, load_teacher
        from model.distill.training import dreams
        from server.worker.generator import beside as located

        given: dict[str, Any] = {**asdict(learning), "weights": three_weights(learning.weights)}
        settings = SalienceSettings(**given)
        parts, dtype = beside.parts(), torch.bfloat16 if own.type == "cuda" else torch.float32
        spec, of_teacher = known(model, parts.size), known(teacher_model or model, parts.size)
        dreams.scripts(spec, prompts, 1)  # reports missing prompts before anything is loaded
        check_training_memory(
            own, spec, partial(salience_bytes, of_teacher, spec, settings, dtype), "--tokens or --size"
        )
        with options_named(OF_STUDENT):
            ours = load_for_work(model, student, own, dtype=dtype, parts=parts, heads=False)
        with options_named(OF_TEACHER):
            theirs = load_teacher(teacher, of_teacher.name, ours, located(parts, of_teacher))
        report = SalienceDistillation(theirs, ours, out, settings, prompts, rank, processes).run()
        if rank == 0:
            by_layer, head = ", ".join(f"{value:.2f}" for value in report["spearman"]), out / "salience.safetensors"
            say(f"held-out Spearman by layer {by_layer}; report and plots are in {out}")
            say(f"serve it: pafu serve{served(model, student, parts)} --salience-head {head} --cache-policy pafu")


@dataclass(frozen=True)
class CacheOptions:
    """The student's cache in the roll-outs."""

    policy: Annotated[str, typer.Option(help="cache policy in the loop")] = "pafu"
    budget: Annotated[float, typer.Option(help="cache budget in latent frames")] = 4.0
    sink: Annotated[float, typer.Option(min=0, help="latent frames")] = 0.0
    recent: Annotated[float, typer.Option(min=0, help="latent frames")] = 1.0

    def config(self) -> CacheConfig:
        """Raises CacheError."""
        from cache.config import CacheConfig

        return CacheConfig(
            policy=self.policy,
            budget_latents=self.budget,
            sink_latents=self.sink,
            recent_latents=self.recent,
            position_mode="relative",
        )


@dataclass(frozen=True)
class LongOptions:
    """The fields of LongSettings, but for the cache, as options."""

    chunks: Annotated[int, typer.Option(min=1, help="length of a roll-out, in chunks")] = 24
    streams: Annotated[int, typer.Option(min=1, help="parallel roll-outs per step and process")] = 2
    steps: Annotated[int, typer.Option(min=1, help="number of training steps")] = 60
    rate: Annotated[float, typer.Option(help="learning rate")] = 1e-4
    leader: Annotated[str, typer.Option(help="whose latents fill the past: former (self) or own")] = "former"
    remembered: Annotated[
        float | None, typer.Option(min=1, help="latent frames that the former self keeps; default: all")
    ] = None


@app.command()
@takes_groups
def long(
    *,
    out: Out = Path("runs/long"),
    student: Student = None,
    model: Model = "pafu-mini",
    head: Annotated[Path | None, typer.Option(help="salience head; default: the file next to the student")] = None,
    prompts: Prompts = None,
    cache: CacheOptions,
    learning: LongOptions,
    beside: PartOptions,
    where: DeviceOptions,
) -> None:
    """Fine-tune a student on long roll-outs with the pruned cache in the loop.

    Under torchrun, each process uses its own GPU.
    """
    with _stage(out, where) as (rank, processes, own):
        from model.distill.stages.long_stage import LongSettings, LongTuning
        from model.distill.stages.needs import long_bytes
        from model.distill.training import dreams

        settings = LongSettings(cache=cache.config(), **asdict(learning))
        parts = beside.parts()
        spec = known(model, parts.size)
        spec.check_policy(cache.policy)
        dreams.scripts(spec, prompts, 1)  # reports missing prompts before anything is loaded
        check_training_memory(
            own, spec, partial(long_bytes, spec, settings), "--remembered, --streams, --budget or --size"
        )
        with options_named(OF_STUDENT):
            loaded = load_for_work(model, student, own, head, parts=parts)
        LongTuning(loaded, out, settings, prompts, rank, processes).run()
        if rank == 0:
            tuned = out / "student"
            if spec.public and student is not None:  # only the transformer was written
                near = beside_of(student)
                parts = Parts(text_encoder=parts.text_encoder or near, vae=parts.vae or near, size=parts.size)
            say(f"the tuned student is in {tuned}; serve it: pafu serve{served(model, tuned, parts)}")


def three_weights(text: str) -> tuple[float, float, float]:
    """The weights of low, diag and up. Raises DistillError."""
    from model.distill.stages.salience_stage import DistillError

    try:
        low, diag, up = (float(part) for part in text.split(","))
    except ValueError:
        raise DistillError(f"weights is {text!r}; give three numbers for low, diag, up, like 1,0,0") from None
    return low, diag, up


def beside_of(student: Path) -> str | None:
    """Where the other parts are that were read beside ``student``; None: the pulled ones of the family serve too."""
    return str(student if student.is_dir() else student.parent) if student.exists() else None


def served(model: str, weights: Path | None, parts: Parts) -> str:
    """The options with which ``pafu serve`` loads this model."""
    given = {"--model": model, "--weights": weights, "--text-encoder": parts.text_encoder, "--vae": parts.vae}
    given["--size"] = parts.size and "x".join(map(str, parts.size))
    return "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in given.items() if value is not None)


def check_training_memory(
    device: torch.device, spec: ModelSpec, count: Callable[[], dict[str, int]], lower: str
) -> None:
    """Print the GPU memory needed. Raises DistillError if there is less, also on a CPU, where the count is a lower
    bound; ``lower`` names the options to reduce."""
    import torch

    from model.cost.memory import CARDS, LEFT_FREE
    from model.distill.stages.salience_stage import DistillError

    if device.type != "cuda" and not spec.public:
        return
    needs = {name: size / 2**30 for name, size in count().items()}
    told = ", ".join(f"{name} {size:.1f}" for name, size in needs.items())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needs["at most"] * 2**30 > free:
        room = {size: size * 1e9 * (1 - LEFT_FREE) / 2**30 for size in CARDS}
        fitting = [f"{size} GB" for size, holds in room.items() if holds >= needs["at most"]]
        would = f"fits on cards of {', '.join(fitting)}" if fitting else f"fits on no card up to {CARDS[-1]} GB"
        raise DistillError(
            f"{free / 2**30:.1f} GiB are free on {device}, but the need is (GiB): {told}, which {would}; reduce {lower}"
        )
    if device.type == "cuda":
        say(f"memory in GiB: {told}")
