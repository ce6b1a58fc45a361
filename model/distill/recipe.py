"""The recipe of pafu-mini: its stages in order, from the world to the shipped weights. Every stage resumes where it
stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch

from cache.config import CacheConfig
from model.codec.vae import StreamingVAE
from model.distill.data import dataset
from model.distill.evaluation.evaluate import judge
from model.distill.evaluation.probe import Probe, probe_accuracy, probe_stage, save_probe, shipped_probe
from model.distill.stages.decoder_stage import decoder_name, decoder_stage
from model.distill.stages.flow_stages import steady_stage, student_stage, teacher_stage, words_stage
from model.distill.stages.long_stage import LongSettings, LongTuning
from model.distill.stages.looks import judge_looks
from model.distill.stages.pasts import build_pasts
from model.distill.stages.salience_stage import SalienceDistillation, SalienceSettings, load_teacher
from model.distill.stages.vae_stage import basis_stage, vae_stage, vae_with_basis
from model.distill.training.stage import Stage, part_of, plot_curve, saved_step, trained_weights
from model.spec import PAFU_MINI
from model.transformer.asking import ASKING_FILE
from model.transformer.dit import CausalDiT
from model.transformer.salience import HEAD_FILE, head_steps, save_head
from model.weights import DESCRIPTION, SHIPPED, add_decoder, load_model, save_model
from model.words.text import TextEncoder

# Training steps of the shipped weights; see model/weights_mini/README.md.
STEPS = {
    **{"vae": 900, "probe": 600, "words": 400, "teacher": 300, "student": 2000, "steady": 1000},
    **{"decoder": 5000, "decoder2": 6800},
}
CLIPS, BEGINNINGS, PASTS = 2304, 16_384, 768  # clips of eight chunks, of one, and of eight with pasts of the student's
TRAINED = ("vae", "words", "teacher", "student")  # the parts of the shipped weights
STAGES = (
    *("basis", "clips", "beginnings", "vae", "probe", "words", "teacher", "student"),
    *("ship", "tune", "pasts", "steady", "decoder", "decoder2", "looks", "judge"),
)
TUNE_STEPS = 100
TUNE_CACHE = CacheConfig.filled_in("pafu", 2.0, None, None, most=1.0)  # tighter than a server's cache should be


class RecipeError(ValueError):
    """A stage does not exist, or the results of an earlier one are missing."""


def run(stage: str, folder: Path, steps: int | None = None, device: str = "cpu") -> None:
    """Run one stage in ``folder``, or all of them in order ("all"); words, teacher and student run on ``device``.

    Raises RecipeError or FileNotFoundError.
    """
    if stage != "all" and stage not in STAGES:
        raise RecipeError(f"unknown stage {stage!r}; stages are all, {', '.join(STAGES)}")
    for name in STAGES if stage == "all" else (stage,):
        _run_one(name, folder, steps, torch.device(device))


def _run_one(name: str, folder: Path, steps: int | None, device: torch.device) -> None:
    training: dict[str, Callable[[int], Stage]] = {
        "vae": lambda n: vae_stage(folder, n),
        "probe": lambda n: probe_stage(folder, n),
        "words": lambda n: words_stage(folder, n, device),
        "teacher": lambda n: teacher_stage(folder, n, device),
        "student": lambda n: student_stage(folder, n, device),
        "steady": lambda n: steady_stage(
            load_model(PAFU_MINI, tuned_student(folder), dtype=torch.float32), folder, n, device
        ),
        "decoder": lambda n: decoder_stage(load_model(PAFU_MINI, student_folder(folder)), folder, n),
        "decoder2": lambda n: decoder_stage(load_model(PAFU_MINI, newest_folder(folder)), folder, n, detail=2),
    }
    if name in training:
        stage = training[name](steps or STEPS[name])
        stage.run()
        plot_curve(folder, name)
    elif name == "basis":
        basis_stage(folder)
    elif name == "clips":
        dataset.build(folder / name, vae_with_basis(folder).eval(), steps or CLIPS)
    elif name == "beginnings":
        dataset.build(folder / name, vae_with_basis(folder).eval(), steps or BEGINNINGS, chunks=1)
    elif name == "ship":
        ship(folder)
    elif name == "pasts":
        build_pasts(folder / name, load_model(PAFU_MINI, tuned_student(folder), dtype=torch.float32), steps or PASTS)
    elif name == "tune":
        tune(folder, steps or TUNE_STEPS, device)
    elif name == "looks":
        _looks(folder)
    else:
        _judge(folder)
    if name == "probe":
        print(probe_accuracy(trained_probe(folder)))
        save_probe(trained_probe(folder), folder / "probe.safetensors")
    if name == "steady":
        settle(folder, torch.device(device))
    if name == "decoder":
        repaint(student_folder(folder), folder, painted_folder(folder))
    if name == "decoder2":
        enlarge(newest_folder(folder) or SHIPPED[PAFU_MINI.name], folder, folder / "enlarged")


def _judge(folder: Path) -> None:
    """Judge the newest weights of the run in ``folder`` with its probe; in a folder without them, the shipped ones."""
    folder.mkdir(parents=True, exist_ok=True)
    has_probe = (folder / "probe.checkpoint.safetensors").is_file()
    judge(load_model(PAFU_MINI, newest_folder(folder)), trained_probe(folder) if has_probe else shipped_probe(), folder)


def _looks(folder: Path) -> None:
    """Measure the newest decoders of the run in ``folder``; in a folder without them, the shipped ones."""
    folder.mkdir(parents=True, exist_ok=True)
    enlarged = folder / "enlarged"
    weights = enlarged if (enlarged / DESCRIPTION).is_file() else newest_folder(folder)
    models = [load_model(PAFU_MINI.at(*size), weights) for size in PAFU_MINI.sizes]
    looks = [asdict(look) for look in judge_looks(models, folder)]
    (folder / "looks.json").write_text(json.dumps(looks, indent=2) + "\n")


def ship(folder: Path) -> None:
    """Write the weights for the server into ``folder``/shipped."""
    dit, text, vae = CausalDiT(PAFU_MINI), TextEncoder(PAFU_MINI), StreamingVAE(PAFU_MINI)
    student, decoder = trained_weights(folder, "student"), trained_weights(folder, "vae")
    dit.load_state_dict(part_of(student, "dit"))
    text.load_state_dict(part_of(student, "text"))
    vae.load_state_dict(part_of(decoder, "vae"))
    trained = {name: saved_step(folder / f"{name}.checkpoint.safetensors") for name in TRAINED}
    save_model(folder / "shipped", PAFU_MINI, dit, text, vae, trained_steps=trained, dtype=torch.float16)


def tuned_folder(folder: Path) -> Path:
    """The folder of the tuned student."""
    return folder / "long" / "student"


def tuned_student(folder: Path) -> Path:
    """The folder of the tuned student if it exists, else of the one from stage ``ship``."""
    return tuned_folder(folder) if (tuned_folder(folder) / HEAD_FILE).is_file() else folder / "shipped"


def student_folder(folder: Path) -> Path:
    """The folder of the newest student, before its decoders are trained again."""
    return folder / "settled" if (folder / "settled" / HEAD_FILE).is_file() else tuned_student(folder)


def painted_folder(folder: Path) -> Path:
    """The folder of the student with its retrained decoder."""
    return folder / "painted"


def newest_folder(folder: Path) -> Path | None:
    """The folder of the newest weights of a run, or None: the shipped ones."""
    made = (painted_folder(folder), student_folder(folder))
    return next((each for each in made if (each / DESCRIPTION).is_file()), None)


def enlarge(weights: Path, run: Path, out: Path) -> None:
    """Write ``weights`` with the decoder of larger pictures trained in ``run`` to ``out``."""
    spec = PAFU_MINI.at(2 * PAFU_MINI.view_width, 2 * PAFU_MINI.view_height)
    vae = StreamingVAE(spec)
    name = decoder_name(2)
    vae.load_state_dict(part_of(trained_weights(run, name), "vae"))
    shutil.copytree(weights, out, dirs_exist_ok=True)
    add_decoder(out, spec, vae, saved_step(run / f"{name}.checkpoint.safetensors"))


def repaint(student: Path, run: Path, out: Path) -> None:
    """Write the weights in ``student`` with the decoder trained in ``run`` to ``out``. The salience head is copied: it
    reads keys and values, which do not depend on the decoder."""
    model = load_model(PAFU_MINI, student, dtype=torch.float32)
    trained = json.loads((student / DESCRIPTION).read_text())["trained_steps"]
    trained["decoder"] = saved_step(run / "decoder.checkpoint.safetensors")
    vae, text = StreamingVAE(PAFU_MINI), cast(TextEncoder, model.text)
    vae.load_state_dict(part_of(trained_weights(run, "decoder"), "vae"))
    save_model(out, PAFU_MINI, model.dit, text, vae, trained_steps=trained, dtype=torch.float16)
    if model.salience is not None:
        steps = head_steps(student / HEAD_FILE)
        save_head(out / HEAD_FILE, model.salience, load_model(PAFU_MINI, out).digest, steps)
    if model.asking is not None:
        steps = head_steps(student / ASKING_FILE)
        save_head(out / ASKING_FILE, model.asking, load_model(PAFU_MINI, out).digest, steps)


def settle(folder: Path, device: torch.device) -> None:
    """Write the student that stage ``steady`` trained, with a head of its own, to ``folder``/settled."""
    before, out = tuned_student(folder), folder / "settled"
    model, trained = load_model(PAFU_MINI, before, dtype=torch.float32), trained_weights(folder, "steady")
    text, steps = cast(TextEncoder, model.text), json.loads((before / DESCRIPTION).read_text())["trained_steps"]
    model.dit.load_state_dict(part_of(trained, "dit"))
    text.load_state_dict(part_of(trained, "text"))
    steps["steady"] = saved_step(folder / "steady.checkpoint.safetensors")
    save_model(out, PAFU_MINI, model.dit, text, cast(StreamingVAE, model.vae), trained_steps=steps, dtype=torch.float16)
    shutil.copy(_distil(folder, out, folder / "salience.settled", device), out)


def tune(folder: Path, steps: int, device: torch.device) -> None:
    """Train a salience head for the shipped student, tune the student on long videos with that head's pruned cache, and
    train a new head for the result, in ``folder``/long/student."""
    head = _distil(folder, folder / "shipped", folder / "salience", device)
    student = load_model(PAFU_MINI, folder / "shipped", device, torch.float32, head)
    LongTuning(student, folder / "long", LongSettings(cache=TUNE_CACHE, steps=steps)).run()
    shutil.copy(_distil(folder, tuned_folder(folder), folder / "salience.tuned", device), tuned_folder(folder))


def _distil(folder: Path, weights: Path, out: Path, device: torch.device) -> Path:
    """Train a head for the student in ``weights``; returns its file."""
    student = dataclasses.replace(load_model(PAFU_MINI, weights, device, torch.float32), salience=None)
    teacher = load_teacher(folder, PAFU_MINI.name, student)
    SalienceDistillation(teacher, student, out, SalienceSettings(source="world")).run()
    return out / HEAD_FILE


def trained_probe(folder: Path) -> Probe:
    """The trained probe of the run in ``folder``."""
    probe = Probe()
    probe.load_state_dict(part_of(trained_weights(folder, "probe"), "probe"))
    return probe.eval()
