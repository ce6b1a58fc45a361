"""``pafu eval``: every cache policy at equal budgets, on held-out scenes, with confidence intervals.

Each cell (policy, budget) is one JSON file, so an interrupted run resumes. All cells use the same scenes and noise. The
full cache comes first: fidelity is measured against it, and the oracle reads its future.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from cache.config import HEADS_OF, POLICY_NAMES, CacheConfig
from model.camera import CameraControl, follow
from model.distill.data.script import Script
from model.distill.data.tours import (
    SPANS,
    SPLITS,
    Tour,
    announced_tour_clip,
    called_tour_clip,
    compare,
    long_asked,
    long_error,
    shown,
    tour,
    tour_clip,
    tour_seed,
    veiled_tour_clip,
)
from model.distill.evaluation import measures
from model.distill.evaluation.cost import cost
from model.distill.evaluation.free_videos import FULL, SEED, FreeVideos
from model.distill.evaluation.judge import Claims, adherence, judge_prompts, landmarks_in_world, same_again
from model.distill.evaluation.probe import Probe, Seen
from model.distill.evaluation.revisits import SIMILARITIES, gains, mirrored, pairs_of
from model.distill.training.rollout import Foresight, Rollout
from model.weights import LoadedModel

SETTINGS_FILE = "eval.settings.json"
TOURS = {
    "tour": tour_clip,
    "announced": announced_tour_clip,
    "called": called_tour_clip,
    "veiled": veiled_tour_clip,
}
LOOK_CHUNKS = 2  # length of a long video's start and end that are compared
MIRROR_SPEED = 16
# pixels per picture, chunk by chunk: away, back by the same way, and on to the other side
MIRRORED = (0, *(MIRROR_SPEED,) * 5, *(-MIRROR_SPEED,) * 5, 0, *(-MIRROR_SPEED,) * 4)
SAME_VIEW = 8.0  # pixels
ABSENCE = (0, 0, 3, 3, -3, -3, 3, 3, 0, 0)  # screens from the start, chunk by chunk


class EvalError(ValueError):
    """Settings that cannot be evaluated; the message says what to change."""


@dataclass(frozen=True)
class EvalSettings:
    """Budgets are latent frames; chunks and streams are per cell. All tours are as long as open ones."""

    policies: tuple[str, ...] = tuple(POLICY_NAMES)
    budgets: tuple[float, ...] = (1, 1.5, 2, 3, 4, 6)
    tours: int = 64
    tour_chunks: int = 24
    announced: int = 64
    called: int = 64
    veiled: int = 64
    absences: int = 16
    changes: int = 16
    change_chunks: int = 16
    mirrors: int = 8
    drifts: int = 2
    drift_chunks: int = 160
    together: int = 8
    split: str = "report"  # tune, choose or report: choices made on one split are reported on another
    seed: int = 0  # other values give other tours of the same split, and other noise
    pose: bool = True  # False: policies see keys that are not rotated by place, as in a model without a camera
    kv_dtype: str = "auto"  # of the pruned caches: "int8" and "int4" hold more tokens in the same bytes
    host_latents: float | None = None  # host memory of policies that recall; None: what a server gives them

    def __post_init__(self) -> None:
        for policy in self.policies:
            if policy not in POLICY_NAMES:
                raise EvalError(f"unknown policy {policy!r}; known: {', '.join(POLICY_NAMES)}")
        if self.split not in SPLITS:
            raise EvalError(f"unknown split {self.split!r}; known: {', '.join(SPLITS)}")
        if self.seed < 0:
            raise EvalError(f"seed is {self.seed}; it must be 0 or more")
        if not self.budgets or not all(0 < budget < math.inf for budget in self.budgets):
            raise EvalError(f"budgets are {self.budgets}; give latent frames above 0")
        if self.host_latents is not None and not 0 < self.host_latents < math.inf:
            raise EvalError(f"host memory is {self.host_latents} latent frames; it must be above 0")
        if min(self.tour_chunks, self.change_chunks, self.drift_chunks) < 4:
            raise EvalError("videos need at least 4 chunks to test a cache")


QUICK = EvalSettings(
    policies=("value_novelty", "asked", "pafu", "sink_window"),
    budgets=(2,),
    tours=3,
    tour_chunks=16,
    announced=3,
    called=3,
    veiled=3,
    absences=2,
    changes=2,
    change_chunks=8,
    mirrors=2,
    drifts=1,
    drift_chunks=16,
    together=3,
)


def cell_config(
    policy: str,
    budget: float,
    chunks: int,
    chunk_latents: int,
    kv_dtype: str = "auto",
    host: float | None = None,
) -> CacheConfig:
    """The cache of a cell: a quarter of the budget for recent tokens (at most a latent frame), and the same for the
    sinks of policy "sink_window"."""
    if policy == FULL:
        return CacheConfig.filled_in(policy, chunks * chunk_latents, 0.0, 0.0, most=0.0)
    return CacheConfig.filled_in(policy, budget, None, None, most=1.0, kv_dtype=kv_dtype, host=host)


class Evaluation:
    """One run: its scenes, its full-cache reference, its cells."""

    def __init__(self, model: LoadedModel, out: Path, settings: EvalSettings, probe: Probe | None = None) -> None:
        if not model.spec.camera:
            raise EvalError(f"model {model.spec.name!r} has no camera, which the tours that measure memory need")
        self._model, self._out, self._settings, self._probe = model, out, settings, probe
        self._free = FreeVideos(model, settings.together, self._advance, settings.seed)
        self._scenes = tour_seed(settings.split, settings.seed)
        self._tours: dict[str, list[Tour]] = {}
        self._foresight: dict[str, list[Foresight]] = {}
        self._progress: Any = None

    def run(self, console: Console) -> dict[str, Any]:
        """Run all cells; returns the results, which are also in ``out``/eval.json."""
        self._keep_settings()
        cells = self._cells()
        with Progress(console=console, disable=not console.is_terminal) as progress:
            self._progress, self._task = progress, progress.add_task("evaluating", total=len(cells) * self._work())
            done = [self._cell(policy, budget) for policy, budget in cells]
        result = {"settings": asdict(self._settings), **self._about(), "cells": done, "summary": summary(done)}
        (self._out / "eval.json").write_text(json.dumps(result, indent=1) + "\n")
        return result

    def _cells(self) -> list[tuple[str, float]]:
        """The full cache first, then budget by budget; learned policies only if there is a head, which the report
        mentions."""
        everything = float(self._settings.tour_chunks * self._model.spec.chunk_latents)
        pruning = [policy for policy in self._settings.policies if policy != FULL and self._has_head(policy)]
        return [(FULL, everything)] + [(policy, budget) for budget in self._settings.budgets for policy in pruning]

    def _has_head(self, policy: str) -> bool:
        return None not in [getattr(self._model, head) for head in HEADS_OF.get(policy, ())]

    def _about(self) -> dict[str, Any]:
        return {
            "model": self._model.spec.name,
            "digest": self._model.digest,
            "head": None not in self._model.heads,
            "probe": self._probe is not None,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype),
        }

    def _keep_settings(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / SETTINGS_FILE
        text = json.dumps({**asdict(self._settings), **self._about()}, indent=1) + "\n"
        if path.exists() and path.read_text() != text:
            raise EvalError(f"{self._out} contains another evaluation: choose another folder, or remove this one")
        path.write_text(text)

    def _work(self) -> int:
        """The number of chunks of one cell, over all its streams."""
        s = self._settings
        told = (s.tours + s.announced + s.called + s.veiled) * s.tour_chunks
        told += s.mirrors * len(MIRRORED)
        return told + s.absences * len(ABSENCE) + s.changes * s.change_chunks + s.drifts * s.drift_chunks

    def _advance(self, chunks: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, advance=chunks)

    # ---- one cell

    def _cell(self, policy: str, budget: float) -> dict[str, Any]:
        path = self._out / "cells" / f"{policy}-{budget:g}.json"
        if path.exists() and (policy != FULL or self._finished()):
            self._advance(self._work())
            return dict(json.loads(path.read_text()))
        cell = {
            "policy": policy,
            "budget": budget,
            **{kind: self._tour_cell(kind, policy, budget) for kind in TOURS},
            "absence": self._absence_cell(policy, budget),
            "change": self._change_cell(policy, budget),
            "mirror": self._mirror_cell(policy, budget),
            "drift": self._drift_cell(policy, budget),
            "cost": self._cost_cell(policy, budget),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell, indent=1) + "\n")
        return dict(json.loads(path.read_text()))  # so that a resumed run has the same types

    def _finished(self) -> bool:
        """Whether no other cell is left that would need the reference."""
        return all((self._out / "cells" / f"{policy}-{budget:g}.json").exists() for policy, budget in self._cells())

    def _cost_cell(self, policy: str, budget: float) -> dict[str, float]:
        """Time and memory in a session as long as a tour; nothing for the oracle, which no session can have."""
        chunks = self._settings.tour_chunks
        return {} if policy == "oracle" else cost(self._model, self._config(policy, budget, chunks), chunks)

    def _tour_cell(self, kind: str, policy: str, budget: float) -> dict[str, Any]:
        """Counts per tour and span, tours in batches; kind is one of TOURS."""
        settings, counts = self._settings, []
        if kind not in self._tours:
            make, number = TOURS[kind], getattr(settings, "tours" if kind == "tour" else kind)
            self._tours[kind] = [tour(self._model, make(n, settings.tour_chunks, self._scenes)) for n in range(number)]
            self._foresight[kind] = [Foresight(self._model.spec, settings.tour_chunks) for _ in range(number)]
        tours, foresight = self._tours[kind], self._foresight[kind]
        config = self._config(policy, budget, settings.tour_chunks)
        for first in range(0, len(tours), settings.together):
            batch = slice(first, first + settings.together)
            counts += self._tour_batch(kind, tours[batch], foresight[batch], config, first)
        return {name: [c[name] for c in counts] for name in (*SPANS, "lcm")}

    def _config(self, policy: str, budget: float, chunks: int) -> CacheConfig:
        settings, frames = self._settings, self._model.spec.chunk_latents
        return cell_config(policy, budget, chunks, frames, settings.kv_dtype, settings.host_latents)

    def _tour_batch(
        self, kind: str, tours: Sequence[Tour], foresight: Sequence[Foresight], config: CacheConfig, first: int
    ) -> list[dict[str, list[float]]]:
        """Draws only chunks with something long unseen in view, or all chunks if the oracle needs them later."""
        settings, frames = self._settings, self._model.spec.chunk_latents
        seeds = [SEED * (1 + settings.seed) + first + i for i in range(len(tours))]
        note = config.policy == FULL and "oracle" in settings.policies
        scripts = [each.script for each in tours]
        rollout = Rollout(told(self._model, kind), scripts, seeds, config, foresight, note, settings.pose)
        sizes = dict.fromkeys(SPANS, 4) | {"lcm": 2}
        sums: list[dict[str, list[float]]] = [{name: [0.0] * size for name, size in sizes.items()} for _ in tours]
        for chunk in range(tours[0].script.chunks):
            where = slice(chunk * frames, (chunk + 1) * frames)
            rows = [row for row, each in enumerate(tours) if note or long_asked(each, where)]
            for row, drawn in zip(rows, rollout.draw(rows) if rows else (), strict=True):
                pictures = shown(self._model, drawn)
                seen = compare(pictures, tours[row], where) | {"lcm": long_error(pictures, tours[row], where)}
                for name, counts in seen.items():
                    sums[row][name] = [a + b for a, b in zip(sums[row][name], counts, strict=True)]
            rollout.commit(torch.stack([each.truth[where] for each in tours]))
            self._advance(len(tours))
        return sums

    def _absence_cell(self, policy: str, budget: float) -> dict[str, list[list[bool]]]:
        """Free videos whose landmarks are hidden by cuts to other places: for each, which landmarks are the same
        again; chance: which are those of the next video."""
        if self._probe is None:
            return {"again": [], "chance": []}
        spec, chunks = self._model.spec, len(ABSENCE)
        scripts = [absence_script(each, spec.width) for each in judge_prompts(self._settings.absences, self._scenes)]
        videos = self._free.make("absence", scripts, self._config(policy, budget, chunks))
        befores: list[list[Seen]] = []
        afters: list[list[Seen]] = []
        for script, latents in zip(scripts, videos, strict=True):
            pictures, views = self._free.pictures(latents), [float(view) for view in script.views(spec)]
            ends = [slice(0, 2 * spec.chunk_latents), slice(-2 * spec.chunk_latents, None)]
            for seen, end in zip((befores, afters), ends, strict=True):
                seen.append(landmarks_in_world(self._probe.read(pictures[end]), views[end]))
        others = afters[1:] + afters[:1] if len(afters) > 1 else []
        return {
            "again": [same_again(before, after) for before, after in zip(befores, afters, strict=True)],
            "chance": [same_again(before, other) for before, other in zip(befores, others, strict=False)],
        }

    def _change_cell(self, policy: str, budget: float) -> dict[str, Any]:
        """Free videos with a prompt change half-way: fidelity, motion, adherence."""
        chunks = self._settings.change_chunks
        pairs = list(zip(*(iter(judge_prompts(2 * self._settings.changes, self._scenes)),) * 2, strict=True))
        scripts = [change_script(before, after, chunks, self._model.spec.width) for before, after in pairs]
        videos = self._free.make("change", scripts, self._config(policy, budget, chunks))
        out: dict[str, Any] = {"psnr": [], "distance": [], "motion": [], "adherence": [], "chance": []}
        played = [self._free.played(latents, script) for latents, script in zip(videos, scripts, strict=True)]
        references = self._free.references["change"]
        for number, (claims, latents, full) in enumerate(zip(pairs, videos, references, strict=True)):
            views, reference = self._free.pictures(latents), self._free.pictures(full)
            out["psnr"].append(over_chunks(measures.psnr, views, reference, chunks))
            out["distance"].append((latents - full).square().mean((1, 2, 3)).sqrt().view(chunks, -1).mean(1).tolist())
            pictures, others = played[number], played[(number + 1) % len(played)]
            out["motion"].append(measures.motion(pictures))
            if self._probe is not None:
                out["adherence"].append(halves_held(claims, pictures, self._probe))
            if self._probe is not None and others is not pictures:
                out["chance"].append(halves_held(claims, others, self._probe))
        return out

    def _mirror_cell(self, policy: str, budget: float) -> dict[str, list[Any]]:
        """Free videos that return the same way, then go to places seen only once: memory in the literature's terms."""
        claims, width = judge_prompts(self._settings.mirrors, self._scenes), self._model.spec.width
        scripts = [mirror_script(each, width) for each in claims]
        out: dict[str, list[Any]] = {"flicker": []} | {
            f"{kind}_{name}": [] for kind in ("gain", "mirrored") for name in SIMILARITIES
        }
        videos = self._free.make("mirror", scripts, self._config(policy, budget, len(MIRRORED)))
        for latents, script in zip(videos, scripts, strict=True):
            pictures, views = self._free.played(latents, script), [float(x) for x in script.places(self._model.spec)]
            pairs = pairs_of(views, SAME_VIEW)
            for name, similarity in SIMILARITIES.items():
                out[f"gain_{name}"].append(gains(pictures, pairs, similarity))
                out[f"mirrored_{name}"].append(mirrored(pictures, views, SAME_VIEW, similarity))
            out["flicker"].append(measures.flicker(pictures))
        return out

    def _drift_cell(self, policy: str, budget: float) -> dict[str, Any]:
        """Long videos under one prompt: the place of their first two chunks as it looks in their last two."""
        chunks = self._settings.drift_chunks
        changes = 2 * self._settings.changes
        claims = judge_prompts(changes + self._settings.drifts, self._scenes)[changes:]
        scripts = [wandering(each.prompt, chunks, self._model.spec.width) for each in claims]
        part = LOOK_CHUNKS * self._model.spec.chunk_latents
        out: dict[str, Any] = {"colour": [], "sharpness": [], "confidence": [], "ends": []}
        for latents in self._free.make("drift", scripts, self._config(policy, budget, chunks)):
            pictures = self._free.pictures(latents)
            first, last = pictures[:part], pictures[-part:]
            out["ends"].append(measures.ends_apart(pictures, lambda part: float(measures.colour(part)[:3].mean())))
            out["colour"].append(float(np.abs(measures.colour(last) - measures.colour(first)).mean()))
            out["sharpness"].append(measures.sharpness(last) / max(1e-6, measures.sharpness(first)))
            if self._probe is not None:
                out["confidence"].append(self._confidence(last) - self._confidence(first))
        return out

    def _confidence(self, pictures: np.ndarray) -> float:
        assert self._probe is not None
        seen = [mark.confidence for reading in self._probe.read(pictures[::4]) for mark in reading.landmarks]
        return float(np.mean(seen)) if seen else 0.0


def told(model: LoadedModel, kind: str) -> LoadedModel:
    """The model for a kind of tour: in called tours prompts name things at other places, so they must not redraw the
    view."""
    return (
        model if kind != "called" else dataclasses.replace(model, spec=dataclasses.replace(model.spec, redraws=False))
    )


def absence_script(claims: Claims, width: int) -> Script:
    """Two chunks of the prompt's things, cuts to other places under a prompt that names nothing, and back."""
    bare = f"{claims.ground}, {claims.light}"
    prompts = (claims.prompt,) * 2 + (bare,) * (len(ABSENCE) - 2)
    return _steered(prompts, [CameraControl(speed=0, cut_to=place) for place in ABSENCE], width)


def mirror_script(claims: Claims, width: int) -> Script:
    """The prompt's things in the first chunk; then a prompt that names nothing, so that only memory can show them."""
    bare = f"{claims.ground}, {claims.light}"
    return _panned((claims.prompt,) + (bare,) * (len(MIRRORED) - 1), list(MIRRORED), width)


def change_script(before: Claims, after: Claims, chunks: int, width: int) -> Script:
    half = chunks // 2
    told = [before] * half + [after] * (chunks - half)
    return _panned(tuple(each.prompt for each in told), [each.speed for each in told], width)


def wandering(prompt: str, chunks: int, width: int) -> Script:
    """A look at the start, a slow pan that turns every eight chunks, and after a cut another look at the start."""
    look, back = CameraControl(speed=0), CameraControl(speed=0, cut_to=0)
    pans = [CameraControl(speed=8 if chunk // 8 % 2 == 0 else -8) for chunk in range(chunks - 2 * LOOK_CHUNKS)]
    controls = [look] * LOOK_CHUNKS + pans + [back] + [look] * (LOOK_CHUNKS - 1)
    return _steered((prompt,) * chunks, controls, width)


def _panned(prompts: tuple[str, ...], speeds: list[int], width: int) -> Script:
    return _steered(prompts, [CameraControl(speed=speed) for speed in speeds], width)


def _steered(prompts: tuple[str, ...], controls: list[CameraControl], width: int) -> Script:
    from model.distill.data.world import CHUNK_LATENTS

    offsets, taken = follow(controls, width, CHUNK_LATENTS)
    return Script(prompts, tuple(offsets), tuple(taken))


def over_chunks(measure: Any, ours: np.ndarray, theirs: np.ndarray, chunks: int) -> list[float]:
    return [measure(a, b) for a, b in zip(np.split(ours, chunks), np.split(theirs, chunks), strict=True)]


def halves_held(claims: tuple[Claims, Claims], pictures: np.ndarray, probe: Probe) -> list[float]:
    """The share of the first claims that hold in the first half of a video, and of the second in the second."""
    half = len(pictures) // 2
    parts = zip(claims, (pictures[:half], pictures[half:]), strict=True)
    return [held_share(adherence(asked, part, probe)) for asked, part in parts]


def held_share(held: dict[str, list[bool]]) -> float:
    """Share of the claims about object, colour, place, camera and light that hold."""
    asked = [value for name in ("object", "colour", "place", "camera", "light") for value in held.get(name, ())]
    return float(np.mean(asked)) if asked else float("nan")


# ---- from cells to results


def tour_counts(cell: dict[str, Any], span: str, kind: str, tours: str = "tour") -> tuple[np.ndarray, np.ndarray]:
    """Per tour (correct, total) landmark pixels of a span; kind "accuracy" or "iou", tours one of TOURS."""
    rows = np.array(cell[tours][span], dtype=float).reshape(-1, 4)
    return (rows[:, 0], rows[:, 1]) if kind == "accuracy" else (rows[:, 2], rows[:, 3])


def absence_counts(cell: dict[str, Any], kind: str = "again") -> tuple[np.ndarray, np.ndarray]:
    """Per video (the same again, landmarks); kind "again" or "chance"."""
    found = cell["absence"][kind]
    return np.array([sum(v) for v in found], float), np.array([len(v) for v in found], float)


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per cell: every measure with its interval."""
    return [summary_row(cell) for cell in cells]


def summary_row(cell: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": cell["policy"], "budget": cell["budget"]}
    for span in SPANS:
        row[f"{span}_accuracy"] = measures.bootstrap(*tour_counts(cell, span, "accuracy"))
    row["long_iou"] = measures.bootstrap(*tour_counts(cell, "long", "iou"))
    for kind in ("announced", "called", "veiled"):
        row[f"{kind}_accuracy"] = measures.bootstrap(*tour_counts(cell, "long", "accuracy", kind))
    row["absence"] = measures.bootstrap(*absence_counts(cell))
    row["absence_chance"] = measures.bootstrap(*absence_counts(cell, "chance"))
    change, drift = cell["change"], cell["drift"]
    for name in ("psnr", "distance"):
        row[name] = measures.bootstrap(np.array([np.mean(each) for each in change[name]]))
    row["motion"] = measures.bootstrap(np.array(change["motion"]))
    for index, name in enumerate(("adherence", "adherence_after_change")):
        row[name] = measures.bootstrap(np.array([each[index] for each in change["adherence"]]))
        row[f"{name}_chance"] = measures.bootstrap(np.array([each[index] for each in change["chance"]]))
    row |= mirror_row(cell["mirror"])
    row["lcm"] = _decibels(measures.bootstrap(*np.array(cell["tour"]["lcm"], float).reshape(-1, 2).T))
    for name in ("colour", "sharpness", "confidence", "ends"):
        row[f"drift_{name}"] = measures.bootstrap(np.array(drift[name]))
    named = {name: None if value is None else asdict(value) for name, value in row.items() if _is_estimate(value)}
    return {"policy": cell["policy"], "budget": cell["budget"], **named, "cost": cell["cost"]}


def mirror_row(cell: dict[str, list[Any]]) -> dict[str, measures.Estimate | None]:
    """MG, DR and NMR by similarity, MIND's gsc, and flicker."""
    row: dict[str, measures.Estimate | None] = {}
    for name in SIMILARITIES:
        found = np.array(cell[f"gain_{name}"], float).reshape(-1, 2)
        found = found[~np.isnan(found).any(1)]  # videos without a revisit or a baseline
        row[f"mg_{name}"], row[f"dr_{name}"] = (measures.bootstrap(column) for column in found.T)
        row[f"nmr_{name}"] = measures.bootstrap(*found.T)
        row[f"gsc_{name}"] = measures.bootstrap(np.array(cell[f"mirrored_{name}"]))
    return row | {"flicker": measures.bootstrap(np.array(cell["flicker"]))}


def _decibels(error: measures.Estimate | None) -> measures.Estimate | None:
    """PSNR of a squared error in grey levels."""
    if error is None:
        return None
    mean, high, low = (10 * math.log10(255**2 / max(value, 1e-9)) for value in (error.mean, error.low, error.high))
    return measures.Estimate(mean, low, high, error.n)


def _is_estimate(value: object) -> bool:
    return value is None or isinstance(value, measures.Estimate)


def differences(
    cells: list[dict[str, Any]], ours: str, budget: float, tours: str = "tour"
) -> dict[str, dict[str, float]]:
    """Long-unseen accuracy of ``ours`` at ``budget`` minus that of every other policy at the same budget, and of the
    full cache, on the same tours."""
    at = {cell["policy"]: cell for cell in cells if cell["budget"] == budget or cell["policy"] == FULL}
    if ours not in at:
        return {}
    mine = tour_counts(at[ours], "long", "accuracy", tours)
    out = {}
    for policy, cell in at.items():
        if policy != ours and (gap := measures.paired(mine, tour_counts(cell, "long", "accuracy", tours))):
            out[policy] = asdict(gap)
    return out
