"""``pafu eval`` for models without a camera: films for all prompts, policies and lengths, and their measurements.

Every film is an MP4 in VBench-long's folder layout: one folder per policy and length, with ``PROMPT-0.mp4``,
``PROMPT-1.mp4`` and so on. Measured without extra weights: speed, peak memory, the drift from the first to the last
seconds, temporal flickering. VBench's own scores are added if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from cache.config import HEADS_OF, SERVED_POLICIES, CacheConfig
from cache.errors import PolicyError
from model.distill.evaluation import measures
from model.distill.evaluation.compare import EvalError
from model.spec import ModelSpec
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel

LOOK_SECONDS = 5.0  # length of a film's start and end that are compared; a third of a film shorter than 15 s
LONGEST_NAME = 200  # bytes of the prompt in a file name
CRF = "16"  # of H.264: too fine for the measures to notice
SEED = 7001
SETTINGS_FILE = "eval.settings.json"
# VBench-long's dimensions for custom videos
VBENCH_DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
VBENCH_DATA = ("VBench_full_info.json", "configs/clip_length_mix.yaml", "configs/slow_fast_params.yaml")
VBENCH_FROM = "clone https://github.com/Vchitect/VBench, install its requirements, and put the clone on PYTHONPATH"
Pictures = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class FilmSettings:
    """``samples`` films of each prompt, each with its own seed; budgets in latent frames."""

    prompts: tuple[str, ...]
    policies: tuple[str, ...]
    budgets: tuple[float, ...]
    minutes: tuple[float, ...] = (1.0,)
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise EvalError("a model without a camera needs prompts: write one per line (--prompts)")
        for policy in self.policies:
            if policy not in SERVED_POLICIES or policy == "full":
                known = ", ".join(each for each in SERVED_POLICIES if each != "full")
                raise EvalError(f"policy {policy!r} cannot make films of any length; known: {known}")
        if not self.budgets or not all(0 < budget < np.inf for budget in self.budgets):
            raise EvalError(f"budgets are {self.budgets}; give latent frames above 0")
        if not self.minutes or not all(0 < each <= 24 * 60 for each in self.minutes):
            raise EvalError(f"minutes are {self.minutes}; give lengths above 0, like 0.5,1,4")


@dataclass(frozen=True)
class Film:
    """Measurements of a film. Drift compares its last seconds with its first: ``colour`` in gray levels (0: none),
    ``sharpness`` as a ratio (1: none). ``flickering`` is VBench's measure, 1 for a still picture; it also falls with
    motion, so compare it at equal ``motion``."""

    pictures: int
    seconds: float  # generation time, decoding included
    colour: float
    sharpness: float
    flickering: float
    motion: float


class Watcher:
    """Receives the pictures of a film as they come, and keeps only its ends."""

    def __init__(self, look: int) -> None:
        self._look = look
        self._first: list[Pictures] = []
        self._last: deque[Pictures] = deque(maxlen=look)
        self._steps: list[float] = []

    def see(self, pictures: Pictures) -> None:
        """Receive the next pictures (T, H, W, 3)."""
        for picture in pictures:
            if self._last:
                self._steps.append(float(np.abs(picture.astype(np.int16) - self._last[-1]).mean()))
            if len(self._first) < self._look:
                self._first.append(picture)
            self._last.append(picture)

    def film(self, seconds: float) -> Film:
        first, last, step = np.stack(self._first), np.stack(self._last), float(np.mean(self._steps))
        return Film(
            pictures=len(self._steps) + 1,
            seconds=seconds,
            colour=float(np.abs(measures.colour(last) - measures.colour(first)).mean()),
            sharpness=measures.sharpness(last) / max(1e-6, measures.sharpness(first)),
            flickering=(255 - step) / 255,
            motion=step,
        )


class Films:
    """One run: its cells (policy, budget, minutes), each with a folder of films and a file of measurements."""

    def __init__(self, model: LoadedModel, out: Path, settings: FilmSettings) -> None:
        self._model, self._out, self._settings = model, out, settings
        cells = [(p, b, m) for m in settings.minutes for b in settings.budgets for p in settings.policies]
        self._cells = list(dict.fromkeys(cells))
        headless = [policy for policy, heads in HEADS_OF.items() if None in [getattr(model, head) for head in heads]]
        if asked := [policy for policy in settings.policies if policy in headless]:
            raise EvalError(f"{' and '.join(asked)} needs a head of this model: name one (--head), or leave them out")
        for policy, budget, _ in self._cells:
            config_of(model.spec, policy, budget)

    def run(self, console: Console) -> dict[str, Any]:
        """Make all missing films; returns the measurements, which are also in ``out``/eval.json."""
        self._keep_settings()
        work = sum(self._pictures(minutes) for *_, minutes in self._cells) * len(list(self._takes()))
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("films", total=work)
            done = [self._cell(*cell, lambda n: progress.update(task, advance=n)) for cell in self._cells]
        result = {**self._about(), "cells": done}
        (self._out / "eval.json").write_text(json.dumps(result, indent=1) + "\n")
        return result

    def _about(self) -> dict[str, Any]:
        model = self._model
        about = {"model": model.spec.name, "digest": model.digest, "device": str(model.device)}
        size = f"{model.spec.width}x{model.spec.height}"
        return {**about, "dtype": str(model.dtype), "size": size, "settings": asdict(self._settings)}

    def _keep_settings(self) -> None:
        path, text = self._out / SETTINGS_FILE, json.dumps(self._about(), indent=1) + "\n"
        if path.exists() and path.read_text() != text:
            raise EvalError(f"{self._out} contains another evaluation: choose another folder, or remove this one")
        self._out.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _pictures(self, minutes: float) -> int:
        return max(2, round(minutes * 60 * self._model.spec.fps))

    def _takes(self) -> Iterator[tuple[str, int, str]]:
        """Prompt, seed and file name of every film of a cell; films of prompts that begin alike are numbered on."""
        taken: dict[str, int] = defaultdict(int)
        for number, prompt in enumerate(self._settings.prompts):
            for sample in range(self._settings.samples):
                seed, name = (
                    SEED * (1 + self._settings.seed) + number * self._settings.samples + sample,
                    file_name(prompt),
                )
                yield prompt, seed, f"{name}-{taken[name]}.mp4"
                taken[name] += 1

    def _cell(self, policy: str, budget: float, minutes: float, advance: Any) -> dict[str, Any]:
        name = f"{policy}-{budget:g}-{minutes:g}min"
        path, folder, total = self._out / "cells" / f"{name}.json", self._out / "videos" / name, self._pictures(minutes)
        if path.exists():
            advance(total * len(list(self._takes())))
            return self._scored(path, dict(json.loads(path.read_text())))
        config, films = config_of(self._model.spec, policy, budget), []
        with PeakMemory(self._model.device) as memory:
            for prompt, seed, file in self._takes():
                films.append(self._film(VideoStream(self._model, prompt, seed, config), folder / file, total, advance))
        cell = {
            "policy": policy,
            "budget": budget,
            "minutes": minutes,
            "folder": str(folder.relative_to(self._out)),
            "peak_bytes": memory.peak,
            "films": [asdict(film) for film in films],
            "vbench": "not asked",
        }
        return self._scored(path, cell)

    def _scored(self, path: Path, cell: dict[str, Any]) -> dict[str, Any]:
        """The cell with VBench's scores, written to ``path``; a cell without scores asks VBench again."""
        if isinstance(cell["vbench"], str):
            cell["vbench"] = vbench(self._out / cell["folder"], self._out / "vbench" / path.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cell, indent=1) + "\n")
        return cell

    def _film(self, stream: VideoStream, path: Path, total: int, advance: Any) -> Film:
        spec, seconds, made = self._model.spec, 0.0, 0
        watcher = Watcher(max(1, min(round(LOOK_SECONDS * spec.fps), total // 3)))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        with av.open(str(aside), "w", format="mp4") as container:
            track = container.add_stream("libx264", rate=spec.fps, options={"crf": CRF})
            track.width, track.height, track.pix_fmt = spec.width, spec.height, "yuv420p"
            while made < total:
                began = time.perf_counter()
                pictures = stream.next_chunk().pictures[: total - made]
                seconds += time.perf_counter() - began
                watcher.see(pictures)
                for picture in pictures:
                    container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                made += len(pictures)
                advance(len(pictures))
            container.mux(track.encode())
        aside.replace(path)
        return watcher.film(seconds)


def config_of(spec: ModelSpec, policy: str, budget: float) -> CacheConfig:
    """The cache of a cell; the model's own sink for the model's own policy and budget. Raises EvalError."""
    own = policy == spec.cache_policy and budget == spec.cache_budget_latents
    sink = spec.cache_sink_latents if own else None
    try:
        spec.check_policy(policy)
        return CacheConfig.filled_in(policy, budget, sink, None, spec.chunk_latents, spec.position_mode)
    except PolicyError as error:
        raise EvalError(str(error)) from error


def file_name(prompt: str) -> str:
    """The prompt as VBench expects it in a file name: without characters that file systems reject, and without ``_``
    and ``-Scene``, by which VBench-long separates its own suffixes."""
    name = re.sub(r"(?:[/\\\x00-\x1f_\s]|-(?=Scene))+", " ", prompt).strip(" .")
    return name.encode()[:LONGEST_NAME].decode(errors="ignore").strip() or "film"


class PeakMemory:
    """``peak`` bytes while it is open: of the GPU's allocator, or on a CPU of this process so far."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.peak = device, 0

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device)
        else:
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def vbench(videos: Path, out: Path) -> dict[str, float] | str:
    """VBench-long's scores of a folder of films from its own program, or why there are none."""
    found = importlib.util.find_spec("vbench2_beta_long")
    program = Path(found.origin).with_name("eval_long.py") if found and found.origin else None
    if program is None or not program.is_file():
        return f"VBench is not installed: {VBENCH_FROM}"
    if missing := [name for name in VBENCH_DATA if not (program.parent / name).is_file()]:
        return f"{program.parent} lacks {missing[0]}, which the wheel of VBench does not contain: {VBENCH_FROM}"
    out.mkdir(parents=True, exist_ok=True)
    asked = (sys.executable, program, "--videos_path", videos, "--output_path", out, "--mode", "long_custom_input")
    run = subprocess.run(
        [*map(str, asked), "--dev_flag", "--dimension", *VBENCH_DIMENSIONS], capture_output=True, text=True, check=False
    )
    results = sorted(out.glob("*_eval_results.json"))
    if run.returncode or not results:
        said = (run.stderr.strip() or run.stdout.strip()).rpartition("\n")[2]
        return f"VBench ended with status {run.returncode}: {said}"
    scores: dict[str, Any] = json.loads(results[-1].read_text())
    means = {name: each[0] if isinstance(each, list) else each for name, each in scores.items()}
    return {name: float(mean) for name, mean in means.items() if mean is not None}
