"""``pafu distill asking``: teach a student's asking head which of its cached values show what a prompt names.

It trains on clips of the built-in world, where the kind and colors of every thing are known. The student's clean
passes give the values. A random prompt names some of the clip's things, and some that are not there. For every token,
the head predicts whether it shows a named thing. Clip, prompt and order depend only on (settings, n).
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.distill.data.captions import GROUND_PHRASES, LIGHT_PHRASES, PLACE_PHRASES
from model.distill.data.holdout import reserved
from model.distill.data.script import Script
from model.distill.data.world import HAS_ACCENT, Clip, Landmark, random_landmark, render_views
from model.distill.stages.salience_stage import DistillError, keep_settings, student_rollout
from model.distill.training import dreams
from model.distill.training.stage import Losses, Stage, plot_curve, trained_weights
from model.spec import PAFU_MINI, ModelSpec
from model.transformer.asking import ASKING_FILE, AskingHead
from model.transformer.attention import prompt_keys
from model.transformer.salience import save_head
from model.weights import LoadedModel
from model.words.text import phrase_ids

STAGE = "asking"
SETTINGS_FILE = "asking.settings.json"
SEED = 6006
CLIP_CHUNKS = 8
SHOWN = 0.08  # share of a token's pixels that a thing must cover
NEAR = 44  # pixels from the middle of a thing
COVERS = 12.0  # gray levels by which a pixel must differ from the same picture without things
MOST_NAMED = 3
THERE, SILENT = 0.75, 0.2  # share of named things that the clip shows; share of prompts that name nothing


@dataclass(frozen=True)
class AskingSettings:
    """The settings that determine the result; ``tokens`` are sampled per clip and step."""

    clips: int = 96
    held_out: int = 8
    steps: int = 1200
    batch: int = 4
    tokens: int = 256
    rate: float = 4e-3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise DistillError(f"{name} is {value}; it must be above 0")


@dataclass(frozen=True)
class Lesson:
    """values (layers, tokens, H, D); shown (tokens,): index in ``things`` of the thing that each token shows, or -1."""

    values: Tensor
    shown: Tensor
    things: tuple[Landmark, ...]


def things_shown(clip: Clip, spec: ModelSpec) -> Tensor:
    """(tokens,): for every token of the clip's views, the index in the scene of the landmark that it shows, or -1."""
    bare = dataclasses.replace(clip, scene=dataclasses.replace(clip.scene, landmarks=()))
    full, empty = (torch.from_numpy(render_views(each)).float() for each in (clip, bare))
    covered = ((full - empty).abs().mean(-1) > COVERS).float()[:, None]
    share = F.avg_pool2d(covered, (spec.height // spec.token_rows, spec.width // spec.token_columns))[:, 0]
    cell = spec.width / spec.token_columns
    middles = torch.arange(spec.token_columns) * cell + cell / 2
    stands = torch.tensor([float(mark.x) for mark in clip.scene.landmarks] or [torch.inf])
    views = torch.tensor(Script.of_clip(clip, spec).views(spec))
    away = (stands - (views[:, None, None] + middles[:, None])).abs()  # (frames, columns, landmarks)
    nearest = torch.where(away.amin(2) <= NEAR, away.argmin(2), -1)[:, None]
    return torch.where(share >= SHOWN, nearest, -1).flatten()


def lesson_of(student: LoadedModel, n: int) -> Lesson:
    """The n-th clip, as the student's clean passes see it over a cache that keeps everything."""
    spec, clip = student.spec, dreams.world_clip(CLIP_CHUNKS, dreams.DREAM_SEED, n)
    rollout = student_rollout(student, Script.of_clip(clip, spec), dreams.painted(student, n), None)
    values = rollout.caches[0].snapshot()["values"].half()
    return Lesson(values, things_shown(clip, spec), clip.scene.landmarks)


def asked_prompt(rng: np.random.Generator, lesson: Lesson) -> tuple[str, Tensor]:
    """A prompt that is not reserved for judging, and whether each token shows a thing that it names, (tokens,)
    float32."""
    while True:
        wanted = _wanted(rng, lesson)
        light, ground = str(rng.choice(list(LIGHT_PHRASES.values()))), str(rng.choice(list(GROUND_PHRASES.values())))
        prompt = ", ".join([f"{ground} {light}", *(_phrase(rng, each) for each in wanted)])
        if not bool(reserved(phrase_ids(prompt, PAFU_MINI.text_len))):
            break
    named = [any(_fits(thing, each) for each in wanted) for thing in lesson.things]
    return prompt, torch.tensor([*named, False])[lesson.shown].float()


def _wanted(rng: np.random.Generator, lesson: Lesson) -> list[Landmark]:
    """Things to name: some without some of their colours (""), some that the clip does not show."""
    if rng.random() < SILENT:
        return []
    seen, wanted = sorted(set(lesson.shown.tolist()) - {-1}), []
    for _ in range(int(rng.integers(1, MOST_NAMED + 1))):
        there = seen and rng.random() < THERE
        thing = lesson.things[int(rng.choice(seen))] if there else random_landmark(rng, 0)
        colour = thing.colour if rng.random() < 0.9 else ""
        accent = thing.accent if thing.accent and rng.random() < 0.7 else None
        wanted.append(dataclasses.replace(thing, colour=colour, accent=accent))
    return wanted


def _phrase(rng: np.random.Generator, wanted: Landmark) -> str:
    roof = f" with a {wanted.accent} roof" if wanted.accent else ""
    place = f" {rng.choice(list(PLACE_PHRASES.values()))}" if rng.random() < 0.5 else ""
    return f"a {wanted.colour} {wanted.kind}{roof}{place}".replace("a  ", "a ")


def _fits(thing: Landmark, wanted: Landmark) -> bool:
    accent = wanted.accent is None or not HAS_ACCENT[thing.kind] or wanted.accent == thing.accent
    return thing.kind == wanted.kind and wanted.colour in ("", thing.colour) and accent


class AskingDistillation:
    """One run, from clips to the head's file."""

    def __init__(self, student: LoadedModel, out: Path, settings: AskingSettings) -> None:
        if student.spec.name != PAFU_MINI.name:
            raise DistillError(f"the head trains on the built-in world, which {student.spec.name!r} does not draw")
        self._student, self._out, self._settings = student, out, settings
        torch.manual_seed(SEED)
        self.head = AskingHead(student.spec)
        self.lesson = lru_cache(maxsize=None)(lambda n: lesson_of(student, n))
        keep_settings(out / SETTINGS_FILE, {**asdict(settings), "student": student.digest}, writes=True)

    def run(self) -> dict[str, list[float]]:
        """Train and report; returns the area under the curve by layer."""
        settings, head = self._settings, self.head
        sizes = [self.lesson(n).values.float().square().mean((1, 2, 3)) for n in range(settings.clips)]
        head.scale.copy_(torch.stack(sizes).mean(0).sqrt().view(-1, 1, 1))
        optimizer = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=0.01)
        modules = nn.ModuleDict({"head": head})
        Stage(STAGE, self._out, modules, [optimizer], self._loss, settings.steps, ema=0.99, warmup=20, every=100).run()
        averaged = trained_weights(self._out, STAGE)
        head.load_state_dict({name.removeprefix("head."): value for name, value in averaged.items()})
        report = self._report()
        save_head(self._out / ASKING_FILE, head, self._student.student, settings.steps)
        plot_curve(self._out, STAGE)
        return report

    def _told(self, prompt: str) -> Tensor:
        """The prompt's cross-attention keys (layers, slots, H, D)."""
        with torch.no_grad():
            model = self._student
            return torch.stack(prompt_keys(model.dit.encode_context(model.text.encode(prompt)[None, None]))).float()

    def _loss(self, step: int) -> Losses:
        settings, losses = self._settings, []
        for place in range(step * settings.batch, (step + 1) * settings.batch):
            rng = np.random.default_rng((SEED, place))
            lesson = self.lesson(int(rng.integers(settings.clips)))
            prompt, target = asked_prompt(rng, lesson)
            drawn = torch.from_numpy(rng.choice(len(target), min(settings.tokens, len(target)), replace=False))
            logits = self.head.logits(lesson.values[:, drawn].float(), self._told(prompt))
            losses.append(F.binary_cross_entropy_with_logits(logits, target[drawn].expand_as(logits)))
        return {"loss": torch.stack(losses).mean()}

    @torch.no_grad()
    def _report(self) -> dict[str, list[float]]:
        """On held-out clips, by layer: area under the curve of tokens of named things against tokens of other things,
        and against all other tokens; chance is .5."""
        settings, asked, targets, shows = self._settings, [], [], []
        for n in range(settings.clips, settings.clips + settings.held_out):
            lesson, rng = self.lesson(n), np.random.default_rng((SEED, n, 1))
            for _ in range(8):
                prompt, target = asked_prompt(rng, lesson)
                asked.append(self.head.logits(lesson.values.float(), self._told(prompt)))
                targets.append(target > 0)
                shows.append(lesson.shown >= 0)
        logits, named, thing = torch.cat(asked, 1), torch.cat(targets), torch.cat(shows)
        rivals = {"things": thing & ~named, "all": ~named}
        return {name: [area(row[named], row[other]) for row in logits] for name, other in rivals.items()}


def area(ours: Tensor, theirs: Tensor) -> float:
    """Area under the curve: how often a value of ``ours`` (n,) is above a value of ``theirs`` (m,)."""
    ranks = torch.cat((ours, theirs)).argsort().argsort().double() + 1
    return float((ranks[: len(ours)].sum() - len(ours) * (len(ours) + 1) / 2) / (len(ours) * max(1, len(theirs))))
