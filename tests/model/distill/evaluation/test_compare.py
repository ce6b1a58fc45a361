"""Promise: the evaluation's measures are correct, and it detects a policy that forgets."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from model.camera import CameraControl
from model.distill.data.holdout import reserved
from model.distill.data.script import Script
from model.distill.data.tours import (
    LONG,
    NEW,
    RECENT,
    SPLITS,
    TOUR_SEED,
    VISIT_CHUNKS,
    Tour,
    announced_tour_clip,
    compare,
    spans,
    tour,
    tour_clip,
    tour_seed,
    veiled_tour_clip,
)
from model.distill.evaluation import measures
from model.distill.evaluation.compare import (
    EvalError,
    EvalSettings,
    Evaluation,
    absence_script,
    cell_config,
    change_script,
    differences,
    wandering,
)
from model.distill.evaluation.compare_report import cell, markdown, plots, show, verdicts
from model.distill.evaluation.free_videos import FreeVideos
from model.distill.evaluation.judge import judge_prompts
from model.distill.training.dreams import world_clip
from model.spec import PAFU_MINI, TEST_TINY
from model.stream.video_stream import VideoStream
from model.weights import LoadedModel, load_model, random_model
from model.words.text import phrase_ids
from model.words.vocabulary import KINDS

SMALL = dataclasses.replace(PAFU_MINI, dim=48, ffn_dim=96, num_heads=2, num_layers=2, freq_dim=16, text_dim=32)
FEW = EvalSettings(
    policies=("full", "window", "pafu", "oracle"),
    budgets=(1.5,),
    tours=2,
    tour_chunks=4,
    announced=2,
    called=2,
    veiled=1,
    absences=1,
    mirrors=1,
    changes=1,
    change_chunks=4,
    drifts=1,
    drift_chunks=4,
    together=2,
)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return random_model(SMALL, seed=0, dtype=torch.float32)


def test_prompt_changes_can_be_measured_alone(model: LoadedModel, tmp_path: Path) -> None:
    none = dict.fromkeys(("tours", "announced", "called", "veiled", "absences", "mirrors", "drifts"), 0)
    result = Evaluation(model, tmp_path, dataclasses.replace(FEW, policies=("window",), **none)).run(
        Console(quiet=True)
    )
    full, window = result["summary"]
    assert full["psnr"]["mean"] > window["psnr"]["mean"] and window["long_accuracy"] is None
    assert "| window | 1.5 |" in markdown(result) and plots(result, tmp_path)


def test_an_interval_holds_the_mean_and_narrows_with_more_streams() -> None:
    rng = np.random.default_rng(0)
    few, many = (measures.bootstrap(rng.normal(3, 1, n)) for n in (10, 1000))
    assert few is not None and many is not None
    assert few.low < few.mean < few.high and abs(many.mean - 3) < 0.2
    assert many.high - many.low < (few.high - few.low) / 4


def test_a_ratio_weighs_streams_by_what_they_asked() -> None:
    assert measures.bootstrap(np.array([9.0, 0]), np.array([10.0, 90])).mean == pytest.approx(0.09)  # type: ignore[union-attr]
    assert measures.bootstrap(np.array([0.0, 0]), np.array([0.0, 0])) is None
    one = measures.bootstrap(np.array([0.5]))
    assert one is not None and one.mean == 0.5 and np.isnan(one.low), "one stream tells nothing about the spread"


def test_paired_differences_see_what_scenes_hide() -> None:
    """Scenes differ far more than policies do, but on the same scenes the small lead is significant."""
    rng = np.random.default_rng(0)
    scene, asked = rng.uniform(0, 1, 40), np.ones(40)
    ours, theirs = scene + 0.05 + rng.normal(0, 0.01, 40), scene
    alone = [measures.bootstrap(values, asked) for values in (ours, theirs)]
    together = measures.paired((ours, asked), (theirs, asked))
    assert alone[0].low < alone[1].high, "intervals overlap"  # type: ignore[union-attr]
    assert together is not None and together.low > 0.04


def test_measures_of_pictures() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 8, 8, 3), np.uint8)
    assert measures.psnr(pictures, pictures) == 60
    assert measures.psnr(pictures // 2, pictures // 2 + 10) == pytest.approx(28.1, abs=0.1)
    assert measures.motion(np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 7, np.uint8)])) == 7
    flat = np.full((2, 8, 8, 3), 9, np.uint8)
    assert measures.sharpness(flat) == 0 < measures.sharpness(pictures)
    assert measures.colour(flat).tolist() == [9, 9, 9, 0, 0, 0]


def test_columns_are_new_recent_or_long_unseen() -> None:
    spec = dataclasses.replace(TEST_TINY, width=128)
    views = [0] * 3 + [64] * 3 + [1000] * 3 + [1000] * 3 + [0] * 3 + [1000] * 3  # chunks
    found = spans(views, spec)
    assert (found[0] == NEW).all()
    assert found[3].tolist() == [RECENT] * 64 + [NEW] * 64, "half of the second view was seen just before"
    assert (found[6] == NEW).all() and (found[9] == RECENT).all()
    assert (found[12] == LONG).all() and (found[15] == RECENT).all(), "two chunks ago is recent, three are long"


def test_what_was_in_fog_is_long_unseen() -> None:
    found = spans([0] * 18, dataclasses.replace(TEST_TINY, width=128), hidden={1, 2})
    assert [int(found[frame, 0]) for frame in range(0, 18, 3)] == [NEW, RECENT, RECENT, LONG, RECENT, RECENT]


def test_a_drawing_is_judged_by_its_landmarks() -> None:
    bare, there = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 4, 8)
    there[..., 1:3] = 0.9  # a landmark two columns wide, in a picture that was seen long ago
    truth = Tour(None, torch.zeros(1), there, bare, torch.full((1, 8), LONG))  # type: ignore[arg-type]
    judge = lambda drawn: compare(drawn, truth, slice(0, 1))["long"]  # noqa: E731
    assert judge(there) == (8, 8, 8, 8)
    assert judge(bare) == (0, 8, 0, 8), "forgotten"
    assert judge(-there) == (0, 8, 0, 8), "another colour"
    moved = there.roll(2, dims=-1)
    assert judge(moved) == (0, 8, 0, 16), "another place costs twice"
    assert compare(there, truth, slice(0, 1))["new"] == (0, 0, 0, 0)


def test_tours_return_far_and_leave_the_world_of_one_screen() -> None:
    clips = [tour_clip(n, 24) for n in range(8)]
    reach = [max(clip.offsets) - min(clip.offsets) for clip in clips]
    assert np.mean(reach) > 2.8 * SMALL.width and max(reach) < 6 * SMALL.width
    counts = np.mean(
        [[(spans(views_of(clip), SMALL) == span).float().mean() for span in range(3)] for clip in clips], 0
    )
    assert counts[LONG] > 0.15 and counts[RECENT] > 0.2, counts
    assert tour_clip(0, 24) == tour_clip(0, 24) and tour_clip(0, 24) != tour_clip(1, 24)
    prompts = {segment.prompt for clip in clips for segment in clip.segments}
    assert not any(kind in prompt for prompt in prompts for kind in ("house", "tree", "tower", "mill", "pine"))


def test_an_announced_tour_returns_to_named_places_only() -> None:
    returns = strangers = 0
    for n in range(12):
        clip = announced_tour_clip(n, 24)
        named: dict[int, bool] = {}
        for visit in range(24 // VISIT_CHUNKS):
            place = round(clip.offsets[visit * VISIT_CHUNKS * 3] / (1.5 * SMALL.width))
            prompt = clip.segment_of(visit * VISIT_CHUNKS).prompt
            names = "," in prompt
            if place in named:
                assert named[place], "back at a place that nobody announced"
                assert not names, "the prompt tells what only memory should"
                returns += 1
            else:
                strangers += not names
                named[place] = names
    assert returns > 24 and strangers > 36
    assert announced_tour_clip(3, 24) == announced_tour_clip(3, 24) != announced_tour_clip(4, 24)


def test_fog_comes_and_goes_while_the_camera_stays() -> None:
    clips = [veiled_tour_clip(n, 24) for n in range(8)]
    assert veiled_tour_clip(3, 24) == clips[3] != clips[4]
    for clip in clips:
        weathers = [clip.segment_of(chunk).weather for chunk in range(24)]
        stays = [list(stay) for _, stay in itertools.groupby(range(24), clip.offsets[::3].__getitem__)]
        assert weathers[:2] == ["clear"] * 2 and 2 <= len(stays) <= 4
        for stay in stays[:-1]:
            runs = [(air, len(list(run))) for air, run in itertools.groupby(weathers[chunk] for chunk in stay)]
            assert [air for air, _ in runs] == ["clear", "fog", "clear"] and 3 <= runs[1][1] <= 6
        assert not any(kind in segment.prompt for segment in clip.segments for kind in KINDS)


def test_clips_to_learn_from_are_announced_in_turn_and_say_nothing_that_is_judged() -> None:
    clips = [world_clip(8, 41, n) for n in range(16)]
    cuts = [max(abs(a - b) for a, b in itertools.pairwise(clip.offsets)) > SMALL.width for clip in clips]
    assert all(cuts[1::2]) and not all(cuts[::2])
    told = [phrase_ids(segment.prompt, PAFU_MINI.text_len) for clip in clips for segment in clip.segments]
    assert not bool(reserved(torch.stack(told)).any())


def test_an_absence_leaves_and_comes_back_without_naming_anything() -> None:
    claims = judge_prompts(1)[0]
    script = absence_script(claims, SMALL.width)
    views = script.views(SMALL)
    assert views[0] == views[-1] == 0 and min(abs(view) for view in views[6:-6]) >= 2 * SMALL.width
    assert claims.prompt in script.prompts[:2] and not any(kind in script.prompts[-1] for kind in KINDS)


def test_a_long_video_ends_with_a_look_at_where_it_began() -> None:
    for chunks in (4, 16, 160):
        views = wandering("a meadow", chunks, 256).views(SMALL)
        assert len(views) == 3 * chunks and views[:6] == views[-6:] == [0] * 6
        assert chunks == 4 or len(set(views)) > 24


def views_of(clip: object) -> list[int]:
    from model.distill.data.script import Script

    return Script.of_clip(clip, SMALL).views(SMALL)  # type: ignore[arg-type]


def test_the_truth_scores_full_marks_and_a_bare_world_none(model: LoadedModel) -> None:
    one = tour(dataclasses.replace(model, vae=load_model("pafu-mini", dtype=torch.float32).vae), tour_clip(0, 4))
    frames = slice(0, 12)
    perfect, empty = compare(one.views, one, frames), compare(one.bare, one, frames)
    for span in ("new", "recent"):
        right, asked, inter, union = perfect[span]
        assert right == asked > 100 and inter == union
        assert empty[span][0] == 0


@pytest.mark.proof
def test_a_run_compares_all_policies_and_goes_on_where_it_stopped(model: LoadedModel, tmp_path: Path) -> None:
    result = Evaluation(model, tmp_path, FEW).run(Console(quiet=True))
    assert [(row["policy"], row["budget"]) for row in result["summary"]] == [
        ("full", 12),
        ("window", 1.5),
        ("pafu", 1.5),
        ("oracle", 1.5),
    ]
    full, window = result["summary"][:2]
    assert full["psnr"]["mean"] == 60, "the full cache is its own reference"
    assert window["psnr"]["mean"] < 60 and window["distance"]["mean"] > 0
    assert {"long_accuracy", "announced_accuracy", "recent_accuracy", "drift_colour", "motion"} <= full.keys()
    assert window["cost"]["bytes"] < full["cost"]["bytes"]

    (tmp_path / "cells" / "pafu-1.5.json").unlink()  # as if the run had been interrupted there
    before = (tmp_path / "cells" / "window-1.5.json").stat().st_mtime_ns
    resumed = Evaluation(model, tmp_path, FEW).run(Console(quiet=True))
    assert (tmp_path / "cells" / "window-1.5.json").stat().st_mtime_ns == before, "a finished cell was made again"
    for ours, theirs in zip(result["cells"], resumed["cells"], strict=True):
        assert {**ours, "cost": 0} == {**theirs, "cost": 0}
    with pytest.raises(EvalError, match="contains another evaluation"):
        Evaluation(model, tmp_path, dataclasses.replace(FEW, tours=3)).run(Console(quiet=True))

    drawn = {path.name for path in plots(resumed, tmp_path)}
    assert drawn >= {"eval.psnr.png", "eval.over_time.png"}
    assert "eval.long_accuracy.png" not in drawn, "in four chunks nothing is out of view for long"
    assert markdown(resumed).count("\n| pafu | 1.5 |") == 4, (
        "one row in each table with figures: random weights show no landmark"
    )
    narrow = Console(width=80, record=True, quiet=False, file=io.StringIO())
    show(resumed, narrow)
    text = narrow.export_text()
    assert "…" not in text and max(map(len, text.partition("open tours,")[0].splitlines())) <= 80


def test_adherence_and_motion_are_those_of_every_picture_that_a_viewer_sees(model: LoadedModel) -> None:
    claims = judge_prompts(2)
    script = change_script(
        *(dataclasses.replace(each, speed=speed) for each, speed in zip(claims, (8, -4), strict=True)), 4, 256
    )
    stream = VideoStream(model, script.prompts[0], 1, cell_config("full", 1, 4, 3))
    chunks = []
    for chunk, prompt in enumerate(script.prompts):
        stream.set_prompt(prompt)
        stream.set_camera(CameraControl(speed=claims_speed(script, chunk)))
        chunks.append(stream.next_chunk())
    played = FreeVideos(model, 1, lambda _: None).played(torch.cat([c.latents[0] for c in chunks]), script)
    assert np.array_equal(played, np.concatenate([c.pictures for c in chunks]))


def claims_speed(script: Script, chunk: int) -> int:
    """The speed to which the camera was steered: the speed at the end of the chunk."""
    return script.speeds[3 * chunk + 2]


def test_learned_policies_are_left_out_without_a_head(model: LoadedModel, tmp_path: Path) -> None:
    headless = Evaluation(dataclasses.replace(model, salience=None), tmp_path, FEW)
    assert "pafu" not in [policy for policy, _ in headless._cells()]


def counted(policy: str, right: list[int]) -> dict[str, object]:
    row = {span: [[r, 10, r, 12] for r in right] for span in ("new", "recent", "long")}
    return {"policy": policy, "budget": 2.0, "tour": row, "announced": row, "called": row, "veiled": row}


def test_verdicts_say_who_is_ahead_and_when_nobody_knows() -> None:
    cells = [counted("pafu", [8, 9, 8, 9]), counted("window", [1, 2, 1, 2]), counted("random", [8, 9, 9, 8])]
    result = {"cells": cells, "summary": [{"policy": "pafu", "budget": 2.0}]}
    ahead, unknown, *others = verdicts(result, "pafu")
    assert [line.partition(",")[0] for line in others] == ["announced tours"] * 2 + ["called tours"] * 2 + [
        "veiled tours"
    ] * 2
    assert "against window: +70.0 points [+70.0, +70.0], ahead" in ahead
    assert unknown.endswith("no significant difference")
    assert differences(json.loads(json.dumps(cells)), "salience", 2.0) == {}


def test_cells_get_equal_budgets() -> None:
    for budget in (1, 1.5, 4):
        tokens = {p: cell_config(p, budget, 24, 3).budget_tokens(32) for p in ("window", "sink_window", "pafu")}
        assert set(tokens.values()) == {round(32 * budget)}
    assert cell_config("full", 2, 24, 3).budget_latents == 72
    assert (cell_config("sink_window", 1, 24, 3).sink_latents, cell_config("pafu", 1, 24, 3).recent_latents) == (
        0.25,
        0.25,
    )


def test_host_memory_is_for_policies_that_recall() -> None:
    host = {policy: cell_config(policy, 6, 24, 3, host=24).host_latents for policy in ("pafu", "retrieval")}
    assert host == {"pafu": 0, "retrieval": 24}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ("lru",)}, "unknown policy 'lru'; known: full"),
        ({"budgets": (0.0,)}, "give latent frames above 0"),
        ({"budgets": (2.0, float("nan"))}, "give latent frames above 0"),
        ({"host_latents": 0.0}, "host memory is 0.0 latent frames"),
        ({"tour_chunks": 2}, "need at least 4 chunks"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(EvalError, match=message):
        dataclasses.replace(FEW, **change)


def test_a_model_without_a_camera_cannot_tour(tmp_path: Path) -> None:
    spec = dataclasses.replace(TEST_TINY, camera=None, control_dim=0)
    with pytest.raises(EvalError, match="has no camera"):
        Evaluation(random_model(spec, 0), tmp_path, FEW)


def test_numbers_are_shown_with_their_interval() -> None:
    assert cell({"mean": 0.5, "low": 0.25, "high": 0.75, "n": 4}) == "0.50 [0.25, 0.75]"
    assert cell({"mean": 0.5, "low": float("nan"), "high": float("nan"), "n": 1}) == "0.50"
    assert cell(None) == "-"


def test_splits_share_no_tour_and_a_seed_is_another_set_of_tours() -> None:
    """A choice made on one split can be reported on another that was not used."""
    first = {
        (split, seed): tour_clip(0, 4, tour_seed(split, seed)).scene.seed for split in SPLITS for seed in (0, 1, 7)
    }
    assert len(set(first.values())) == len(first)
    told = {judge_prompts(1, tour_seed(split, seed))[0].prompt for split in SPLITS for seed in (0, 1, 7)}
    assert len(told) == len(first) and judge_prompts(1)[0].prompt not in told, "free videos are split in the same way"
    assert tour_seed("report", 0) == TOUR_SEED, "the tours of the documents"


@pytest.mark.parametrize("wrong", [{"split": "test"}, {"seed": -1}])
def test_an_unknown_split_is_named(wrong: dict) -> None:
    with pytest.raises(EvalError, match="unknown split 'test'; known: tune, choose, report|seed is -1"):
        EvalSettings(**wrong)
