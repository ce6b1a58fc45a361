"""``pafu distill salience``: teach a student's salience head what a bidirectional teacher finds salient.

For every clip the teacher runs once over the whole noised clip, and its attention is reduced to a balanced salience per
layer and token (``cache.scoring``). The student's keys and values come from its own streaming clean passes over the
same clip. The head learns to predict the salience from keys and values. Clip n, noise and order depend only on
(settings, n).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cache.config import CacheConfig
from cache.scoring import Reduce, SalienceParts, Scale, balanced_salience, salience_parts, shared_salience
from model.checkpoints import hub
from model.checkpoints.public import Beside
from model.distill.data.script import Script
from model.distill.training import dreams, parallel
from model.distill.training.dreams import Telling, load_clip, noised
from model.distill.training.rollout import Foresight, Rollout
from model.distill.training.stage import Losses, Stage, plot_curve, trained_weights
from model.spec import ModelSpec, spec_named
from model.transformer import rope
from model.transformer.attention import attend
from model.transformer.salience import HEAD_FILE, SalienceHead, save_head, tensors_digest
from model.transformer.sampler import FULL_NOISE
from model.weights import LoadedModel, WeightsError, load_parts

STAGE = "salience"
SETTINGS_FILE = "salience.settings.json"
REPORT_FILE = "salience.report.json"
KEEP_BYTES = 2**33  # lessons kept in main memory; others are recomputed when needed
SEED = 5005
QUALITY = ("spearman", "recall")
TOP = 0.125  # share of a clip's tokens that a tight budget can keep; recall is measured at this share


class DistillError(ValueError):
    """Settings, teacher and student do not fit together; the message says what to change."""


@dataclass(frozen=True)
class SalienceSettings:
    """The settings that determine the result.

    measure: a key's "effect" on its queries, or the "attention" that it receives. layers: "deep" gives all layers one
    target from the teacher's deeper half; "own" gives each layer the target of the teacher's layer at the same relative
    depth. weights: of low, diag and up. gap: a query counts as low from this many chunks after the key. signal:
    "teacher" is the bidirectional teacher; "student" is the student's own future attention in a roll-out (an ablation).
    source: "teacher" dreams the clips; "world" paints the built-in world's. tokens: how many random tokens of a clip
    the head trains on; all of them count in the target.
    """

    clips: int = 128
    held_out: int = 8
    steps: int = 600
    batch: int = 4
    rate: float = 3e-3
    measure: str = "effect"
    layers: str = "deep"
    weights: tuple[float, float, float] = (1.0, 0.0, 1.0)
    reduce: Reduce = "max"
    scale: Scale = "rank"
    gap: int = 2
    noise_level: float = 0.35
    loss: str = "regression"
    signal: str = "teacher"
    source: str = "teacher"
    dream_steps: int = 20
    guidance: float = 1.0
    tokens: int = 2048

    def __post_init__(self) -> None:
        allowed = {
            "loss": ("regression", "ranking"),
            "measure": ("effect", "attention"),
            "layers": ("deep", "own"),
            "signal": ("teacher", "student"),
            "source": ("teacher", "world"),
            "reduce": get_args(Reduce),
            "scale": get_args(Scale),
        }
        for name, known in allowed.items():
            if getattr(self, name) not in known:
                raise DistillError(f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}")
        if not 0 < self.noise_level <= 1:
            raise DistillError(f"noise_level is {self.noise_level}; allowed is more than 0 and up to 1")
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.weights) or not any(self.weights):
            raise DistillError(f"weights are {self.weights}; give numbers of 0 or more for low, diag, up, not all 0")
        for name, least in (
            ("clips", 1),
            ("held_out", 1),
            ("steps", 1),
            ("batch", 1),
            ("gap", 1),
            ("dream_steps", 1),
            ("tokens", 2),
        ):
            if getattr(self, name) < least:
                raise DistillError(f"{name} is {getattr(self, name)}; it must be {least} or more")


@dataclass(frozen=True)
class Lesson:
    """A clip's tokens for the head, in main memory: keys and values (layers, n, H, D), target (layers, n) in [0, 1]."""

    keys: Tensor
    values: Tensor
    target: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.keys.nbytes + self.values.nbytes + self.target.nbytes

    def on(self, device: torch.device) -> Lesson:
        """A copy on ``device``."""
        return Lesson(*(each.to(device) for each in (self.keys, self.values, self.target)))


class SalienceRecorder:
    """The teacher's bidirectional attention strategy, which records each layer's balanced parts."""

    def __init__(self, positions: Tensor, spec: ModelSpec, settings: SalienceSettings) -> None:
        self._rotation = rope.angles(positions, spec.rope_split, spec.rope_theta)
        self._block, self._settings = spec.tokens_per_chunk, settings
        self.parts: list[SalienceParts] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = rope.apply(q, *self._rotation), rope.apply(k, *self._rotation)
        self.record(q, k, v)
        return attend(q, k, v)

    def record(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Record a layer's parts from rotated queries and keys."""
        queries, keys, values = (each[0].transpose(0, 1) for each in (q, k, v))
        counted = values if self._settings.measure == "effect" else None
        reduce, gap = self._settings.reduce, self._settings.gap
        self.parts.append(salience_parts(queries, keys, self._block, v=counted, reduce=reduce, gap=gap))


@torch.no_grad()
def teacher_salience(
    teacher: LoadedModel, script: Script, latents: Tensor, settings: SalienceSettings, seed: int
) -> Tensor:
    """(teacher layers, tokens) in [0, 1]."""
    telling = Telling(teacher, script)
    recorder = SalienceRecorder(telling.positions, teacher.spec, settings)
    x_t = noised(latents.to(teacher.device), settings.noise_level, seed)
    telling.velocity(x_t, FULL_NOISE * settings.noise_level, telling.context(), recorder)
    block = teacher.spec.tokens_per_chunk
    return torch.stack([balanced_salience(p, block, settings.weights, settings.scale) for p in recorder.parts])


def student_rollout(student: LoadedModel, script: Script, latents: Tensor, table: Foresight | None) -> Rollout:
    """The student's stream over the clip with a cache that keeps everything, for all prompts; ``table`` records its
    future attention."""
    student = dataclasses.replace(student, spec=dataclasses.replace(student.spec, redraws=False))
    config = CacheConfig(
        policy="full",
        budget_latents=script.chunks * student.spec.chunk_latents,
        sink_latents=0,
        recent_latents=0,
        position_mode="relative",
    )
    rollout = Rollout(student, [script], [SEED], config, [table] if table else None, note=table is not None)
    for chunk in latents.split(student.spec.chunk_latents):
        if table is not None:
            rollout.draw()
        rollout.commit(chunk[None])
    return rollout


def layers_like(target: Tensor, layers: int) -> Tensor:
    """The teacher's rows for a student with ``layers`` layers, at the same relative depth."""
    depth = torch.linspace(0, len(target) - 1, layers).round().long()
    return target[depth.to(target.device)]


def check_pair(teacher: LoadedModel, student: LoadedModel) -> None:
    """Raise DistillError unless teacher and student divide a clip into the same tokens."""
    for name in ("tokens_per_latent", "token_columns", "chunk_latents", "latent_channels", "camera"):
        theirs, ours = getattr(teacher.spec, name), getattr(student.spec, name)
        if theirs != ours:
            raise DistillError(
                f"teacher {teacher.spec.name!r} and student {student.spec.name!r} see different tokens: {name} is "
                f"{theirs} and {ours}; take a teacher of the student's family and picture size"
            )


def load_teacher(folder: Path, name: str, student: LoadedModel, beside: Beside | None = None) -> LoadedModel:
    """The bidirectional teacher in ``folder``: weights of model ``name``, also by their hub id, or a run of ``pafu
    distill mini``, whose teacher shares the student's autoencoder. Raises WeightsError or FileNotFoundError."""
    if not (folder / "teacher.checkpoint.safetensors").is_file():
        spec = spec_named(name).at(student.spec.width, student.spec.height)
        return load_parts(spec, hub.locate(str(folder), spec), student.device, student.dtype, beside)
    trained = trained_weights(folder, "teacher")
    parts: dict[str, Any] = {"dit": copy.deepcopy(student.dit), "text": copy.deepcopy(student.text)}
    for part, module in parts.items():
        own = {key.removeprefix(f"{part}."): value for key, value in trained.items() if key.startswith(f"{part}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(f"the teacher in {folder} does not fit model {name!r}: {error}") from error
    return dataclasses.replace(student, **parts, digest=tensors_digest(trained), salience=None)


def keep_settings(path: Path, settings: dict[str, Any], writes: bool) -> None:
    """Record a run's settings. Raises DistillError, naming the changes, if the folder has a run with others: continuing
    it would mix two runs."""
    text = json.dumps(settings, indent=2, default=str) + "\n"
    if path.exists() and path.read_text() != text:
        before, now = json.loads(path.read_text()), json.loads(text)
        changed = [name for name in now if before.get(name) != now[name]]
        raise DistillError(
            f"{path.parent} contains a run with other settings ({', '.join(changed)} changed): choose "
            "another folder, or remove this one to start again"
        )
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Lessons:
    """Lesson n on demand; as many as fit into KEEP_BYTES stay in memory."""

    def __init__(self, make: Callable[[int], Lesson]) -> None:
        self._make = make
        self._kept: OrderedDict[int, Lesson] = OrderedDict()

    def __getitem__(self, n: int) -> Lesson:
        if parallel.any_rank(n not in self._kept):
            self._kept[n] = self._make(n)
            while sum(lesson.nbytes for lesson in self._kept.values()) > KEEP_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return self._kept[n]


class SalienceDistillation:
    """One run, from prompts to the head's file."""

    def __init__(
        self,
        teacher: LoadedModel,
        student: LoadedModel,
        out: Path,
        settings: SalienceSettings,
        prompts: Path | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        check_pair(teacher, student)
        if prompts is not None and settings.source == "world":
            raise DistillError(
                "the built-in world paints clips for its own prompts: omit --prompts, or use --source teacher"
            )
        if settings.clips < processes:
            raise DistillError(f"{settings.clips} clips for {processes} processes: give each at least one (--clips)")
        self._teacher, self._student, self._out, self._settings = teacher, student, out, settings
        self._rank, self._processes = rank, processes
        self._script = dreams.scripts(student.spec, prompts, student.spec.trained_latents // student.spec.chunk_latents)
        self._lessons = Lessons(self._lesson)
        torch.manual_seed(SEED)
        self.head = SalienceHead(student.spec).to(student.device)
        told = {"teacher": teacher.digest, "student": student.digest, "prompts": dreams.digest(prompts)}
        keep_settings(out / SETTINGS_FILE, {**asdict(settings), **told}, writes=rank == 0)
        for model in (teacher, student):
            parallel.shard(model.dit)

    def run(self) -> dict[str, list[float]]:
        """Dream, train, report; existing results are reused. Returns the report's figures."""
        clips = self._settings.clips + self._settings.held_out
        dreams.build(self._out / "dreams", clips, self._clip, self._rank, self._processes)
        parallel.barrier()
        stage = Stage(
            STAGE,
            self._out,
            nn.ModuleDict({"head": self.head}),
            [torch.optim.AdamW(self.head.parameters(), lr=self._settings.rate, weight_decay=0.01)],
            self._loss,
            self._settings.steps,
            ema=0.99,
            warmup=20,
            every=50,
            describe=describe,
            synchronise=lambda: parallel.mean_gradients(self.head.parameters()),
            writes=self._rank == 0,
        )
        stage.run()
        parallel.barrier()
        averaged = trained_weights(self._out, STAGE)
        self.head.load_state_dict({name.removeprefix("head."): value for name, value in averaged.items()})
        report = self._report()
        if self._rank == 0:
            save_head(self._out / HEAD_FILE, self.head, self._student.student, self._settings.steps)
            (self._out / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
            plot_curve(self._out, STAGE)
        return report

    def _clip(self, n: int) -> Tensor:
        if self._settings.source == "world":
            return dreams.painted(self._student, n)
        settings = self._settings
        return dreams.dream(self._teacher, self._script(n), SEED + n, settings.dream_steps, settings.guidance)

    @torch.no_grad()
    def _lesson(self, n: int) -> Lesson:
        script, latents, spec = self._script(n), load_clip(self._out / "dreams", n), self._student.spec
        own = self._settings.signal == "student"
        table = Foresight(spec, script.chunks) if own else None
        target = None if own else self._target(n, script, latents, None)  # before the student's cache is allocated
        cache = student_rollout(self._student, script, latents, table).caches[0]
        if target is None:
            target = self._target(n, script, latents, table)
        chosen = sampled(cache.tokens(0), self._settings.tokens, SEED + n).to(self._student.device)
        keys, values = [], []
        for layer, positions in enumerate(cache.retained_positions()):
            held = [each[chosen][None] for each in cache.committed(layer)]
            unrotated = rope.unrotate_place(held[0], positions[chosen][None], spec.rope_split, spec.rope_theta)
            keys.append(unrotated[0].cpu())
            values.append(held[1][0].cpu())
        return Lesson(torch.stack(keys), torch.stack(values), target[:, chosen.cpu()].expand(spec.num_layers, -1))

    def _target(self, n: int, script: Script, latents: Tensor, table: Foresight | None) -> Tensor:
        """(layers or 1, tokens), in main memory: computed once and stored in a file."""
        path = self._out / "targets" / f"{n:05d}.safetensors"
        if parallel.any_rank(not path.exists()):  # another rank may just have written it
            made = self._made_target(n, script, latents, table).cpu().contiguous()
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"target": made}, aside := path.with_suffix(f".part{self._rank}"))
            aside.replace(path)
        try:
            return load_file(path)["target"]
        except (SafetensorError, KeyError) as error:
            raise WeightsError(f"{path} is damaged ({error}): remove it and run the same command again") from error

    def _made_target(self, n: int, script: Script, latents: Tensor, table: Foresight | None) -> Tensor:
        settings, spec = self._settings, self._student.spec
        if table is not None:
            seen = table.target(settings.gap, spec.tokens_per_chunk)
            nothing = torch.zeros_like(seen[0])
            parts = [SalienceParts(low=row, diag=nothing, up=nothing) for row in seen]
            target = torch.stack(
                [balanced_salience(p, spec.tokens_per_chunk, (1, 0, 0), settings.scale) for p in parts]
            )
        else:
            target = teacher_salience(self._teacher, script, latents, settings, SEED + n)
        return self._for_layers(target)

    def _for_layers(self, target: Tensor) -> Tensor:
        """The target's rows: one for each layer of the student, or one for all."""
        layers = self._student.spec.num_layers
        if self._settings.layers == "own":
            return layers_like(target, layers)
        return shared_salience(target, self._student.spec.tokens_per_chunk, self._settings.scale)[None]

    def _loss(self, step: int) -> Losses:
        """Losses and gradients, one clip at a time, so that only one clip's graph is in memory."""
        settings, total = self._settings, torch.zeros(())
        for place in range(step * settings.batch, (step + 1) * settings.batch):
            lesson = self._lessons[self._clip_at(place)].on(self._student.device)
            logits = self.head.logits(lesson.keys, lesson.values)
            loss = head_loss(logits, lesson.target, settings.loss, step)["loss"] / settings.batch
            loss.backward()
            total += loss.detach().cpu()
        # Ranks cost more than the step itself, so they are logged for one clip only.
        return {"loss": total} | quality(logits.detach(), lesson.target)

    def _clip_at(self, place: int) -> int:
        """The clip of a step. Every process has its own clips, in the same order, because sharded weights need all
        processes at the same time."""
        own = max(1, self._settings.clips // self._processes)
        order = np.random.default_rng((SEED, place // own)).permutation(own)
        return int(order[place % own]) * self._processes + self._rank

    @torch.no_grad()
    def _report(self) -> dict[str, list[float]]:
        """Held-out Spearman and top-k recall per layer, and the heat map of the first held-out clip."""
        rows: dict[str, list[Tensor]] = {"spearman": [], "recall": []}
        held_out = range(self._settings.clips, self._settings.clips + self._settings.held_out)
        for n in track(held_out, description="held-out lessons", disable=self._rank > 0):
            lesson = self._lessons[n].on(self._student.device)
            score = self.head(lesson.keys, lesson.values)
            rows["spearman"].append(spearman(score, lesson.target))
            rows["recall"].append(top_recall(score, lesson.target))
            if n == self._settings.clips and self._rank == 0:
                plot_heat(self._out / "salience.heat.png", lesson.target, score, self._student.spec)
        return {name: torch.stack(values).mean(0).tolist() for name, values in rows.items()}


def sampled(count: int, most: int, seed: int) -> Tensor:
    """Indices of at most ``most`` of ``count`` tokens, ascending."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def head_loss(logits: Tensor, target: Tensor, kind: str, step: int) -> Losses:
    """Regression: cross-entropy against the target as a probability. Ranking: of random pairs of a layer's tokens, the
    more salient one must score higher, weighted by the difference. logits, target (layers, n)."""
    if kind == "regression":
        return {"loss": F.binary_cross_entropy_with_logits(logits, target)}
    generator = torch.Generator().manual_seed(SEED + step)
    other = torch.randperm(target.shape[1], generator=generator).to(target.device)
    ahead = target - target[:, other]
    lead = (logits - logits[:, other]) * ahead.sign()
    return {"loss": (F.softplus(-lead) * ahead.abs()).sum() / ahead.abs().sum().clamp(min=1e-6)}


def quality(logits: Tensor, target: Tensor) -> Losses:
    """Spearman and top-k recall, as a mean and by layer."""
    with torch.no_grad():
        correlation, recall = spearman(logits, target), top_recall(logits, target)
    rows = {"spearman": correlation, "recall": recall}
    layers = {f"{name}.{layer}": value for name, row in rows.items() for layer, value in enumerate(row)}
    return {name: row.mean() for name, row in rows.items()} | layers


def describe(losses: dict[str, float]) -> str:
    """Loss, and rank correlation and recall by layer in hundredths."""
    rows = {name: " ".join(f"{100 * v:.0f}" for k, v in losses.items() if k.startswith(f"{name}.")) for name in QUALITY}
    return f"loss {losses['loss']:.3f}  " + "  ".join(f"{name} {row}" for name, row in rows.items())


def spearman(score: Tensor, target: Tensor) -> Tensor:
    """Rank correlation per row: two (layers, n) -> (layers,)."""
    a, b = _ranks(score), _ranks(target)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    alike: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-9)
    return alike


def _ranks(x: Tensor) -> Tensor:
    """Ranks per row; ties share their mean rank."""
    x = x.float().contiguous()
    order = x.sort(1).values
    return (torch.searchsorted(order, x) + torch.searchsorted(order, x, right=True)).float() / 2


def top_recall(score: Tensor, target: Tensor) -> Tensor:
    """Share of the TOP most salient tokens that are among the TOP highest scores, per row (layers,)."""
    k = max(1, round(TOP * target.shape[1]))
    wanted = torch.zeros_like(target, dtype=torch.bool).scatter_(1, target.topk(k, 1).indices, True)
    return wanted.gather(1, score.topk(k, 1).indices).float().mean(1)


def plot_heat(path: Path, target: Tensor, score: Tensor, spec: ModelSpec) -> None:
    """Layers x tokens: the teacher's salience above the head's scores; lines separate chunks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(2, 1, figsize=(12, 5), sharex=True, layout="constrained")
    for axis, rows, title in zip(axes, (target, score), ("teacher", "head"), strict=True):
        image = axis.imshow(rows.cpu().numpy(), aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap="magma")
        axis.set(title=title, ylabel="layer")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        # otherwise they are sampled from all chunks
        whole = rows.shape[1] == spec.trained_latents * spec.tokens_per_latent
        for edge in range(spec.tokens_per_chunk, rows.shape[1] if whole else 0, spec.tokens_per_chunk):
            axis.axvline(edge - 0.5, color="white", linewidth=0.5, alpha=0.5)
    about = f"token (chunks of {spec.tokens_per_chunk})" if whole else f"random tokens of all chunks, {rows.shape[1]}"
    axes[1].set_xlabel(about)
    figure.colorbar(image, ax=axes, label="salience")
    figure.savefig(path, dpi=110)
    plt.close(figure)
