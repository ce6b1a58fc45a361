"""Promise: the salience target equals the formula, the head learns it, and an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cache.config import CacheConfig
from cache.scoring import balanced_salience, salience_parts
from model.distill.stages.long_stage import LongSettings, LongTuning
from model.distill.stages.salience_stage import (
    DistillError,
    SalienceDistillation,
    SalienceSettings,
    layers_like,
    load_teacher,
    spearman,
    teacher_salience,
    top_recall,
)
from model.distill.training import dreams
from model.distill.training.stage import Stage
from model.spec import TEST_TINY, ModelSpec
from model.transformer import rope
from model.transformer.attention import Bidirectional
from model.transformer.salience import HEAD_FILE, load_head
from model.weights import LoadedModel, WeightsError, random_model, save_model

# clips of three chunks: everything is there, and it is fast
TINY = dataclasses.replace(TEST_TINY, trained_latents=9, width=64, height=64)
WAN = dataclasses.replace(
    TINY, name="tiny-wan", camera=None, control_dim=0, predicts="velocity", screen_embedding=False
)
FEW = SalienceSettings(clips=4, held_out=2, steps=6, batch=2, dream_steps=2, gap=1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair() -> tuple[LoadedModel, LoadedModel]:
    """A random teacher and a random student."""
    return tuple(random_model(TINY, seed, dtype=torch.float32) for seed in (1, 2))  # type: ignore[return-value]


@pytest.fixture
def distil(pair: tuple[LoadedModel, LoadedModel]) -> Callable[..., SalienceDistillation]:
    def build(out: Path, settings: SalienceSettings = FEW, prompts: Path | None = None) -> SalienceDistillation:
        return SalienceDistillation(*pair, out, settings, prompts)

    return build


@pytest.mark.parametrize("measure", ["effect", "attention"])
def test_the_target_is_the_balanced_salience_of_what_the_teacher_looks_at(
    pair: tuple[LoadedModel, LoadedModel], monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    teacher, script = pair[0], dreams.scripts(TINY, None, 3)(0)
    latents = torch.randn(9, TINY.latent_channels, TINY.latent_height, TINY.latent_width)
    settings = dataclasses.replace(FEW, weights=(2.0, 1.0, 0.5), measure=measure)
    seen = {}

    def spy(self: Bidirectional, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen[layer] = [each[0].transpose(0, 1) for each in (q, k, v)]
        return call(self, layer, q, k, v)

    call = Bidirectional.__call__
    monkeypatch.setattr(Bidirectional, "__call__", spy)
    telling = dreams.Telling(teacher, script)
    x_t = dreams.noised(latents, settings.noise_level, seed=3)
    telling.velocity(x_t, 1000 * settings.noise_level, telling.context(), Bidirectional(telling.positions, TINY))
    ours = teacher_salience(teacher, script, latents, settings, seed=3)
    for layer, (q, k, v) in seen.items():
        turned = [
            rope.rotate(x.transpose(0, 1)[None], telling.positions, TINY.rope_split, TINY.rope_theta)[0] for x in (q, k)
        ]
        counted = v if measure == "effect" else None
        parts = salience_parts(*(x.transpose(0, 1) for x in turned), TINY.tokens_per_chunk, v=counted, gap=1)
        expected = balanced_salience(parts, TINY.tokens_per_chunk, settings.weights, "rank")
        assert torch.allclose(ours[layer], expected, atol=1e-5)


def test_a_deeper_teacher_speaks_by_relative_depth() -> None:
    assert layers_like(torch.arange(9.0)[:, None], 3).flatten().tolist() == [0, 4, 8]


def test_the_head_learns_and_reports(distil: Callable[..., SalienceDistillation], tmp_path: Path) -> None:
    settings = dataclasses.replace(FEW, steps=100, clips=8, rate=1e-2, weights=(0.0, 1.0, 0.0))
    report = distil(tmp_path, settings).run()
    log = [json.loads(line) for line in (tmp_path / "salience.log.jsonl").read_text().splitlines()]
    assert log[-1]["spearman"] > log[0]["spearman"] + 0.1 and log[-1]["loss"] < log[0]["loss"]
    assert all(value > 0.05 for value in report["spearman"]), "held-out clips say nothing of it"
    assert {"salience.heat.png", "salience.curve.png", HEAD_FILE} <= {path.name for path in tmp_path.iterdir()}


def test_an_interruption_changes_nothing(
    distil: Callable[..., SalienceDistillation],
    pair: tuple[LoadedModel, LoadedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distil(tmp_path / "straight").run()
    broken, dream = distil(tmp_path / "broken"), dreams.dream
    calls = 0

    def tired(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return dream(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as once:
        once.setattr(dreams, "dream", tired)
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    step = Stage._step
    with monkeypatch.context() as once:

        def fall(self: Stage, number: int, rates: list[list[float]]) -> dict[str, float]:
            if number == 4:
                raise KeyboardInterrupt
            out = step(self, number, rates)
            self.save(number + 1)
            return out

        once.setattr(Stage, "_step", fall)
        with pytest.raises(KeyboardInterrupt):
            distil(tmp_path / "broken").run()
    distil(tmp_path / "broken").run()
    assert (tmp_path / "broken" / HEAD_FILE).read_bytes() == (tmp_path / "straight" / HEAD_FILE).read_bytes()


@pytest.mark.parametrize("loss", ["regression", "ranking"])
def test_a_wan_family_pair_distils_from_prompts_alone(tmp_path: Path, loss: str) -> None:
    """No camera, velocity prediction, a teacher twice as deep, clips from nothing but a list of prompts."""
    teacher = random_model(dataclasses.replace(WAN, name="deep-wan", num_layers=4), 1, dtype=torch.float32)
    student = random_model(WAN, 2, dtype=torch.float32)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red house\n\na blue tower at night\n")
    settings = dataclasses.replace(FEW, loss=loss, guidance=2.0, steps=3)
    out = tmp_path / "out"
    SalienceDistillation(teacher, student, out, settings, prompts).run()
    head = load_head(out / HEAD_FILE, WAN, student.digest)
    assert head.weight1.shape[0] == WAN.num_layers
    with pytest.raises(ValueError, match="'tiny-wan' has no world of its own: give a file of prompts"):
        SalienceDistillation(teacher, student, tmp_path / "other", settings)


def test_the_students_own_future_can_be_the_signal(distil: Callable[..., SalienceDistillation], tmp_path: Path) -> None:
    report = distil(tmp_path, dataclasses.replace(FEW, signal="student", steps=2)).run()
    assert len(report["spearman"]) == TINY.num_layers


def test_other_settings_do_not_go_on_with_an_old_run(
    distil: Callable[..., SalienceDistillation], tmp_path: Path
) -> None:
    distil(tmp_path)
    with pytest.raises(DistillError, match=r"contains a run with other settings \(noise_level changed\)"):
        distil(tmp_path, dataclasses.replace(FEW, noise_level=0.7))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red mill")
    with pytest.raises(DistillError, match=r"\(prompts changed\)"):
        distil(tmp_path, prompts=prompts)


def test_painted_clips_take_no_prompts(distil: Callable[..., SalienceDistillation], tmp_path: Path) -> None:
    """They were painted for their own prompts, not for others."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red mill")
    with pytest.raises(DistillError, match="omit --prompts"):
        distil(tmp_path / "out", dataclasses.replace(FEW, source="world"), prompts)


def test_a_damaged_clip_is_named(distil: Callable[..., SalienceDistillation], tmp_path: Path) -> None:
    dreams.clip_path(tmp_path / "dreams", 0).parent.mkdir(parents=True)
    dreams.clip_path(tmp_path / "dreams", 0).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"00000\.safetensors is damaged .*: remove it"):
        distil(tmp_path).run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "magic"}, "loss is 'magic'; known: regression, ranking"),
        ({"noise_level": 0.0}, "noise_level is 0.0; allowed is more than 0 and up to 1"),
        ({"clips": 0}, "clips is 0; it must be 1 or more"),
        ({"weights": (0.0, 0.0, 0.0)}, "0 or more for low, diag, up, not all 0"),
        ({"weights": (float("nan"), 0.0, 1.0)}, "0 or more for low, diag, up, not all 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DistillError, match=message):
        dataclasses.replace(FEW, **change)


def test_a_teacher_that_sees_other_tokens_is_refused(pair: tuple[LoadedModel, LoadedModel], tmp_path: Path) -> None:
    wide: ModelSpec = dataclasses.replace(TINY, name="wide", width=128)
    with pytest.raises(DistillError, match="see different tokens: tokens_per_latent is 8 and 4"):
        SalienceDistillation(random_model(wide, 1, dtype=torch.float32), pair[1], tmp_path, FEW)


def test_a_teacher_comes_from_weights_or_from_a_recipes_run(
    pair: tuple[LoadedModel, LoadedModel], tmp_path: Path
) -> None:
    made, student = random_model(TEST_TINY, 1, dtype=torch.float32), random_model(TEST_TINY, 2, dtype=torch.float32)
    save_model(tmp_path / "weights", TEST_TINY, made.dit, made.text, made.vae, trained_steps={}, dtype=torch.float32)
    loaded = load_teacher(tmp_path / "weights", "test-tiny", student)
    modules = torch.nn.ModuleDict({"dit": made.dit, "text": made.text})
    Stage("teacher", tmp_path / "run", modules, [], lambda step: {}, 1).folder.mkdir()
    Stage("teacher", tmp_path / "run", modules, [], lambda step: {}, 1).save(1)
    recipe = load_teacher(tmp_path / "run", "test-tiny", student)
    for name, tensor in made.dit.state_dict().items():
        assert torch.equal(loaded.dit.state_dict()[name], tensor) and torch.equal(recipe.dit.state_dict()[name], tensor)
    assert recipe.digest != student.digest and loaded.digest != student.digest


def test_spearman_and_recall_know_their_ends() -> None:
    target = torch.arange(16.0)[None].repeat(3, 1)
    score = torch.stack((target[0] ** 3, -target[0], torch.ones(16)))
    assert spearman(score, target).tolist() == pytest.approx([1, -1, 0], abs=1e-6)
    assert top_recall(score, target)[:2].tolist() == [1, 0]


FLEET = """
import dataclasses, sys, torch
from pathlib import Path
from safetensors.torch import save_file
sys.path.insert(0, {tests!r})
from test_salience_stage import FEW, TINY
from model.distill.training import parallel
from model.distill.stages.salience_stage import SalienceDistillation
from model.weights import random_model

torch.set_num_threads(1)
rank, processes, device = parallel.start("cpu")
pair = [random_model(TINY, seed, device, torch.float32) for seed in (1, 2)]
run = SalienceDistillation(*pair, Path({out!r}), dataclasses.replace(FEW, batch=1, steps=3), None, rank, processes)
run.run()
save_file(run.head.state_dict(), Path({out!r}) / f"rank{{rank}}.safetensors")
parallel.stop()
"""


@pytest.mark.proof
def test_two_processes_with_sharded_weights_agree(tmp_path: Path) -> None:
    """torchrun, FSDP over Gloo: each process has half of both transformers, and both end with the same head."""
    script = tmp_path / "fleet.py"
    script.write_text(FLEET.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    root = str(Path(__file__).resolve().parents[4])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    untrained = SalienceDistillation(
        *(random_model(TINY, seed, dtype=torch.float32) for seed in (1, 2)), tmp_path / "untrained", FEW
    ).head.state_dict()
    assert not torch.equal(first["weight1"], untrained["weight1"])


LONG = LongSettings(
    cache=CacheConfig(policy="pafu", budget_latents=1.5, sink_latents=0, recent_latents=1, position_mode="relative"),
    chunks=3,
    streams=2,
    steps=4,
    rate=2e-3,
)


@pytest.mark.proof
def test_long_tuning_brings_the_pruned_cache_closer_to_the_full_one(tmp_path: Path) -> None:
    """One roll-out over and over, in a world where its tight budget hurts."""
    student = random_model(TEST_TINY, 2, dtype=torch.float32)
    tuning = LongTuning(student, tmp_path, dataclasses.replace(LONG, steps=15, chunks=4))
    one = tuning._loss
    tuning._loss = lambda step: one(0)  # type: ignore[method-assign]
    tuned = tuning.run()
    log = [json.loads(line)["loss"] for line in (tmp_path / "long.log.jsonl").read_text().splitlines()]
    assert log[-1] < 0.5 * log[0], log
    assert tuned.salience is not None, "the head that was in the loop belongs to the tuned student"
    assert tuned.digest != random_model(TEST_TINY, 2).digest


def test_long_tuning_that_was_interrupted_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = LongTuning(random_model(TEST_TINY, 2, dtype=torch.float32), tmp_path / "straight", LONG).run()
    step = Stage._step

    def fall(self: Stage, number: int, rates: list[list[float]]) -> dict[str, float]:
        if number == 2:
            raise KeyboardInterrupt
        out = step(self, number, rates)
        self.save(number + 1)
        return out

    with monkeypatch.context() as once:
        once.setattr(Stage, "_step", fall)
        with pytest.raises(KeyboardInterrupt):
            LongTuning(random_model(TEST_TINY, 2, dtype=torch.float32), tmp_path / "broken", LONG).run()
    resumed = LongTuning(random_model(TEST_TINY, 2, dtype=torch.float32), tmp_path / "broken", LONG).run()
    assert resumed.digest == straight.digest
