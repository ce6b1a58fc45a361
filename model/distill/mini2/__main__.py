"""``python -m model.distill.mini2``: trains pafu-mini 2 within a given time.

``all`` renders clips, trains the autoencoder, the student, and the decoder again, and makes contact sheets of both;
``autoencoder`` stops after the first; ``probe`` measures the machine's speed in a minute and a half. Existing weights
in ``--out`` are trained further.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch

from model.distill.mini2.autoencoder_stage import AutoencoderStage
from model.distill.mini2.clips import LatentClips
from model.distill.mini2.drawing import draw_clip
from model.distill.mini2.lessons import Lessons, Student
from model.distill.mini2.look import look_at_autoencoder, look_at_student
from model.distill.mini2.pool import ClipPool
from model.distill.mini2.run import Twin
from model.distill.mini2.scale import CHUNKS, SCALES, Scale
from model.distill.mini2.student_stage import StudentStage, polish

POOL_SEED = 77


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model.distill.mini2", description=__doc__)
    parser.add_argument("stage", choices=("all", "autoencoder", "probe", "wait"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ae-minutes", type=float, default=6.0, help="0 uses the weights in --out")
    parser.add_argument("--student-minutes", type=float, default=9.0)
    parser.add_argument("--polish-minutes", type=float, default=1.2)
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--scale", choices=tuple(SCALES), default="gpu", help="rehearsal: a tiny model on the CPU")
    parser.add_argument("--seed", type=int, default=POOL_SEED)
    parser.add_argument("--source", type=Path, help="wait: the folder of the run to wait for")
    parser.add_argument("--seconds", type=float, default=560, help="wait: seconds at most")
    args = parser.parse_args()
    if args.stage == "wait":
        wait(args.source, args.out, args.seconds)
        return
    scale = SCALES[args.scale]
    spec = scale.spec
    shape = (spec.trained_latents, spec.height, spec.width)
    torch.set_num_threads(2 if scale.device == "cuda" else 1)
    # forks before the process touches the GPU
    pool = ClipPool(draw_clip, shape, CHUNKS, scale.slots, scale.workers, args.seed)
    if scale.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    try:
        if args.stage == "probe":
            probe(pool, scale, args.out, args.compile)
        else:
            ae = train_autoencoder(pool, scale, args)
            if args.stage == "all":
                train_student(ae, pool, scale, args)
    finally:  # a waiting process must also see a failure
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "done").write_text("")
        pool.close()


def train_autoencoder(pool: ClipPool, scale: Scale, args: argparse.Namespace) -> AutoencoderStage:
    out: Path = args.out
    began = time.monotonic()
    pool.gather(scale.first_clips)
    _tell(out, "pool", clips=len(pool.filled()), seconds=time.monotonic() - began)
    ae = AutoencoderStage(scale, out)
    if args.ae_minutes:
        ae.train(pool, args.ae_minutes)
    vae = ae.average.module
    _tell(out, "autoencoder", **look_at_autoencoder(vae, pool, scale, out / "ae.png"), clips=len(pool.filled()))
    return ae


def train_student(ae: AutoencoderStage, pool: ClipPool, scale: Scale, args: argparse.Namespace) -> None:
    """Train the student, then the decoder again on the student's latents."""
    out, vae, began = args.out, ae.average.module, time.monotonic()
    clips = LatentClips(scale)
    clips.absorb(pool, vae, scale.clips)
    _tell(out, "encoded", clips=len(clips), seconds=time.monotonic() - began)
    student = StudentStage(scale, out)
    if args.student_minutes:
        student.train(clips, pool, vae, args.student_minutes, args.compile)
    drawer = Student.of(student.average.module)
    _tell(out, "student", **look_at_student(drawer, vae, clips, pool, scale, out / "student.png"))
    if args.polish_minutes:
        polish(ae, student, clips, pool, scale, args.polish_minutes)
        _tell(out, "polished", **look_at_student(drawer, vae, clips, pool, scale, out / "polished.png"))
        _tell(out, "polished", **look_at_autoencoder(vae, pool, scale, out / "ae-polished.png"))


def probe(pool: ClipPool, scale: Scale, out: Path, compiled: bool) -> None:
    """Speed and memory of rendering and of every kind of training step."""
    began = time.monotonic()
    pool.gather(scale.first_clips)
    rate = len(pool.filled()) / (time.monotonic() - began)
    _tell(out, "probe.render", clips_per_second=rate)
    ae = AutoencoderStage(scale, out / "probe")
    ae.train(pool, 0.15)
    vae = ae.average.module
    clips = LatentClips(scale)
    began = time.monotonic()
    clips.absorb(pool, vae, scale.first_clips)
    _tell(out, "probe.encode", clips_per_second=len(clips) / (time.monotonic() - began))
    stage = StudentStage(scale, out / "probe")
    student = Student.of(Twin(stage.modules, scale.dtype).module)
    lessons = Lessons(clips, scale, 1)
    _time_steps(out, "eager", lessons, student)
    if compiled:
        for block in student.dit.blocks:
            block.forward = torch.compile(block.forward)
        _time_steps(out, "compiled", lessons, student)


def _time_steps(out: Path, name: str, lessons: Lessons, student: Student) -> None:
    for step, progress in ((1, 0.0), (1, 0.3), (3, 0.3), (0, 0.3), (0, 0.9)):
        seconds = []
        for _ in range(4):
            began = time.monotonic()
            lessons.losses(student, step, progress)["loss"].backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(round(time.monotonic() - began, 3))
        gib = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
        _tell(out, f"probe.{name}", kind=step, progress=progress, seconds=seconds, gib=round(gib, 1))


def wait(source: Path, out: Path, seconds: float) -> None:
    """Copy the results of the run in ``source`` when it is done, or after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (source / "done").exists():
        time.sleep(2)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.safetensors")) + sorted(source.glob("*.png")) + [source / "log.jsonl"]:
        if path.is_file():
            shutil.copy(path, out / path.name)
    print("ended" if (source / "done").exists() else "still running", flush=True)


def _tell(out: Path, stage: str, **values: object) -> None:
    out.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"stage": stage, **values})
    print(line, flush=True)
    with (out / "log.jsonl").open("a") as log:
        log.write(line + "\n")


if __name__ == "__main__":
    main()
