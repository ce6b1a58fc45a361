"""``pafu distill``: command line of the training recipes in ``model/distill``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model import gpu
from server.cli.console import fail, say
from server.ipc.messages import Parts
from server.process import available_bytes

if TYPE_CHECKING:
    import torch

    from model.spec import ModelSpec
    from model.weights import LoadedModel

app = typer.Typer(help="Train and evaluate models, offline.", no_args_is_help=True)

NO_PARTS = Parts()
BESIDE = {"text_encoder": "--text-encoder", "vae": "--vae", "salience_head": "--head"}
OF_STUDENT, OF_TEACHER = {"weights": "--student", **BESIDE}, {"weights": "--teacher", **BESIDE}  # options by part
EXTRA = "the training recipes need more packages: run pip install -e '.[distill]'"


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

    prepare(device, threads)
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
Text = Annotated[Path | None, typer.Option("--text-encoder", help="text encoder; default: next to the weights")]
Vae = Annotated[Path | None, typer.Option("--vae", help="VAE; default: next to the weights")]
Size = Annotated[str | None, typer.Option("--size", help="video size, as 832x480; default: the model's own")]
Prompts = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="prompts, one per line; default: from the model's own world"),
]
Device = Annotated[str, typer.Option(help="cpu or cuda; under torchrun each process uses its own GPU")]
Threads = Annotated[int, typer.Option(min=0, help="torch threads; 0 uses all cores")]


def prepare(device: str, threads: int) -> None:
    """Check the packages and the device, and set torch threads; exits with one line on a problem."""
    try:
        import matplotlib  # noqa: F401  # an extra that the recipes need
    except ImportError as error:
        raise fail(f"{error.name} is missing; {EXTRA}") from None
    import torch

    from server.process import usable_cores

    torch.set_num_threads(threads or usable_cores())
    check_device(device)


def check_device(name: str) -> None:
    """Exit with one line if the device does not exist."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise fail(f"device {name!r} is unknown; allowed: cpu, cuda, or one GPU of several, like cuda:1", 2)
    if name == "cpu":
        return
    number, there = int(name.partition(":")[2] or 0), gpu.count()
    if not there:
        raise fail(f"device {name!r} was requested, but {gpu.why_none()}; or use --device cpu")
    if number >= there:
        raise fail(f"device {name!r} was requested, but torch sees {there} GPUs, counted from 0")


@contextmanager
def _stage(out: Path, threads: int, device: str) -> Iterator[tuple[int, int, torch.device]]:
    """Yields rank, number of processes and device; exits with one line on errors that the user can fix."""

    prepare(device, threads)
    from cache.errors import CacheError
    from model.distill.stages.salience_stage import DistillError
    from model.distill.training import parallel
    from model.stream.stream_state import StreamError
    from model.weights import WeightsError

    try:
        yield parallel.start(device)
    except (DistillError, WeightsError, CacheError, StreamError, OSError, FloatingPointError) as error:
        raise fail(str(error)) from None
    except ValueError as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; the same command resumes from the last checkpoint in {out}", 130) from None
    finally:
        parallel.stop()


@app.command()
def asking(
    out: Out = Path("runs/asking"),
    student: Student = None,
    model: Model = "pafu-mini",
    clips: Annotated[int, typer.Option(min=1, help="clips to learn from")] = 96,
    held_out: Annotated[int, typer.Option(min=1, help="clips to report on")] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 1200,
    batch: Annotated[int, typer.Option(min=1, help="clips per step")] = 4,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Train a head that finds the cached tokens showing what a prompt names."""
    with _stage(out, threads, device):
        import torch

        from model.distill.stages.asking_stage import AskingDistillation, AskingSettings
        from model.transformer.asking import ASKING_FILE

        with options_named(OF_STUDENT):
            loaded = load_for_work(model, student, torch.device("cpu"), heads=False)
        settings = AskingSettings(clips=clips, held_out=held_out, steps=steps, batch=batch)
        report = AskingDistillation(loaded, out, settings).run()
        rows = "; ".join(f"over {name} " + " ".join(f"{v:.2f}" for v in areas) for name, areas in report.items())
        say(f"{out / ASKING_FILE}; area under the curve by layer: {rows}")


# settings of the salience stage with options of the same name
SALIENCE = (
    *("clips", "held_out", "steps", "batch", "source", "signal", "measure", "layers", "reduce", "scale", "gap"),
    *("noise_level", "loss", "dream_steps", "guidance", "tokens"),
)


@app.command()
def salience(
    teacher: Annotated[
        Path, typer.Option(help="bidirectional teacher: folder, file or hub id of weights, or a run of the recipe")
    ],
    out: Out = Path("runs/salience"),
    student: Student = None,
    model: Model = "pafu-mini",
    teacher_model: Annotated[str | None, typer.Option(help="the teacher's model name, if different")] = None,
    prompts: Prompts = None,
    clips: Annotated[int, typer.Option(min=1, help="clips to learn from")] = 128,
    held_out: Annotated[int, typer.Option(min=1, help="clips to report on")] = 8,
    steps: Annotated[int, typer.Option(min=1)] = 600,
    batch: Annotated[int, typer.Option(min=1, help="clips per step and process")] = 4,
    source: Annotated[
        str, typer.Option(help="source of clips: teacher (samples them) or world (renders the built-in world)")
    ] = "teacher",
    signal: Annotated[
        str, typer.Option(help="whose attention to learn: teacher, or student (its own future; ablation)")
    ] = "teacher",
    measure: Annotated[
        str, typer.Option(help="measure of salience: effect (of removing the token) or attention (that it receives)")
    ] = "effect",
    layers: Annotated[str, typer.Option(help="target: deep (one for all layers) or own (one per layer)")] = "deep",
    weights: Annotated[str, typer.Option(help="weights of low, diag, up")] = "1,0,1",
    reduce: Annotated[str, typer.Option(help="reduction over queries: max or mean")] = "max",
    scale: Annotated[str, typer.Option(help="normalization: rank, robust (per chunk), clip, or both")] = "rank",
    gap: Annotated[int, typer.Option(min=1, help="distance in chunks from which a query counts as future")] = 2,
    noise_level: Annotated[float, typer.Option(help="noise level of the teacher's input clip, 0 to 1")] = 0.35,
    loss: Annotated[str, typer.Option(help="regression or ranking")] = "regression",
    dream_steps: Annotated[int, typer.Option(min=1, help="sampling steps of the teacher")] = 20,
    guidance: Annotated[float, typer.Option(help="classifier-free guidance of the teacher; 1: none")] = 1.0,
    tokens: Annotated[int, typer.Option(min=2, help="random tokens per clip that the head learns from")] = 2048,
    text_encoder: Text = None,
    vae: Vae = None,
    size: Size = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Distill a salience head for a student from a bidirectional teacher; supports torchrun."""
    given = {name: value for name, value in locals().items() if name in SALIENCE}
    with _stage(out, threads, device) as (rank, processes, own):
        from typing import Any, cast

        import torch

        from model.distill.stages.needs import salience_bytes
        from model.distill.stages.salience_stage import SalienceDistillation, SalienceSettings, load_teacher
        from model.distill.training import dreams
        from server.worker.generator import beside

        settings = SalienceSettings(**cast(Any, given), weights=three_weights(weights))
        parts, dtype = parts_of(text_encoder, vae, size), torch.bfloat16 if own.type == "cuda" else torch.float32
        spec, of_teacher = known(model, parts.size), known(teacher_model or model, parts.size)
        dreams.scripts(spec, prompts, 1)  # reports missing prompts before anything is loaded
        check_room(own, spec, partial(salience_bytes, of_teacher, spec, settings, dtype), "--tokens or --size")
        with options_named(OF_STUDENT):
            ours = load_for_work(model, student, own, dtype=dtype, parts=parts, heads=False)
        with options_named(OF_TEACHER):
            theirs = load_teacher(teacher, of_teacher.name, ours, beside(parts, of_teacher))
        report = SalienceDistillation(theirs, ours, out, settings, prompts, rank, processes).run()
        if rank == 0:
            by_layer, head = ", ".join(f"{value:.2f}" for value in report["spearman"]), out / "salience.safetensors"
            say(f"held-out Spearman by layer {by_layer}; report and plots are in {out}")
            say(f"serve it: pafu serve{served(model, student, parts)} --salience-head {head} --cache-policy pafu")


@app.command()
def long(
    out: Out = Path("runs/long"),
    student: Student = None,
    model: Model = "pafu-mini",
    head: Annotated[Path | None, typer.Option(help="salience head; default: the file next to the student")] = None,
    prompts: Prompts = None,
    policy: Annotated[str, typer.Option(help="cache policy in the loop")] = "pafu",
    budget: Annotated[float, typer.Option(help="cache budget in latent frames")] = 4.0,
    sink: Annotated[float, typer.Option(min=0, help="latent frames")] = 0.0,
    recent: Annotated[float, typer.Option(min=0, help="latent frames")] = 1.0,
    chunks: Annotated[int, typer.Option(min=1, help="length of a roll-out, in chunks")] = 24,
    streams: Annotated[int, typer.Option(min=1, help="parallel roll-outs per step and process")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="number of training steps")] = 60,
    rate: Annotated[float, typer.Option(help="learning rate")] = 1e-4,
    leader: Annotated[str, typer.Option(help="whose latents fill the past: former (self) or own")] = "former",
    remembered: Annotated[
        float | None, typer.Option(min=1, help="latent frames that the former self keeps; default: all")
    ] = None,
    text_encoder: Text = None,
    vae: Vae = None,
    size: Size = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Fine-tune a student on long roll-outs with the pruned cache in the loop."""
    with _stage(out, threads, device) as (rank, processes, own):
        from cache.config import CacheConfig
        from model.distill.stages.long_stage import LongSettings, LongTuning
        from model.distill.stages.needs import long_bytes
        from model.distill.training import dreams

        cache = CacheConfig(
            policy=policy, budget_latents=budget, sink_latents=sink, recent_latents=recent, position_mode="relative"
        )
        settings = LongSettings(
            cache=cache,
            chunks=chunks,
            streams=streams,
            steps=steps,
            rate=rate,
            leader=leader,
            remembered=remembered,
        )
        parts = parts_of(text_encoder, vae, size)
        spec = known(model, parts.size)
        dreams.scripts(spec, prompts, 1)  # reports missing prompts before anything is loaded
        check_room(own, spec, partial(long_bytes, spec, settings), "--remembered, --streams, --budget or --size")
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


def parts_of(text_encoder: Path | None, vae: Path | None, size: str | None) -> Parts:
    """The options as Parts. Raises SpecError for a size that is none."""
    from model.spec import size_of

    text, video = (None if part is None else str(part) for part in (text_encoder, vae))
    return Parts(text_encoder=text, vae=video, size=None if size is None else size_of(size))


def known(name: str, size: tuple[int, int] | None = None) -> ModelSpec:
    """The spec of a model, at another picture size. Raises SpecError for an unknown name, an unfit size, and for one
    that only the codec draws in more detail: heads and figures belong to the latents."""
    from model.spec import SpecError, spec_named

    spec = spec_named(name) if size is None else spec_named(name).at(*size)
    if spec.detail > 1:
        same = f"{spec.view_width}x{spec.view_height}, which has the same latents"
        raise SpecError(f"model {name!r}: size: this command knows the true pictures at {same}: leave the size out")
    return spec


def check_room(device: torch.device, spec: ModelSpec, count: Callable[[], dict[str, int]], lower: str) -> None:
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


def load_for_work(
    name: str,
    folder: Path | None,
    device: torch.device,
    head: Path | None = None,
    dtype: torch.dtype | None = None,
    parts: Parts = NO_PARTS,
    heads: bool = True,
) -> LoadedModel:
    """Load a model for training or evaluation, in float32 by default, as training needs; its heads only if a policy
    may need them (``heads``).

    Models with random weights need no folder.
    """
    import torch

    from model.checkpoints import hub
    from model.spec import RANDOM_WEIGHTS
    from model.weights import load_model, load_parts, random_model, require_own_parts
    from server.worker.generator import beside

    spec, dtype = known(name, parts.size), dtype or torch.float32
    near = beside(parts, spec)
    if name in RANDOM_WEIGHTS and folder is None:
        require_own_parts(spec, near, "random weights")
        return random_model(spec, 0, device, dtype)
    place = hub.locate(str(folder), spec) if folder else None
    if place is not None and not heads:
        return load_parts(spec, place, device, dtype, near)
    return load_model(spec, place, device, dtype, head, near)


@contextmanager
def options_named(called: Mapping[str, str]) -> Iterator[None]:
    """A WeightsError in this block begins with the option at fault; ``called``: options by part."""
    from model.weights import WeightsError

    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{called[error.part]}: {error}", error.part) from error
