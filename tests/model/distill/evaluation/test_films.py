"""Promise: ``pafu eval`` without a camera writes films in VBench-long's layout, with correct measurements."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from model.distill.evaluation.compare import EvalError
from model.distill.evaluation.films import VBENCH_DATA, Films, FilmSettings, Watcher, file_name, vbench
from model.distill.evaluation.films_report import markdown
from model.spec import TEST_WAN
from model.weights import random_model

SETTINGS = FilmSettings(
    prompts=("a cat walks", "a storm/at sea"), policies=("window", "sink_window"), budgets=(3.0,), minutes=(26 / 960,)
)
SMALL = TEST_WAN.at(48, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("films")
    model = random_model(SMALL, seed=0, dtype=torch.float32)
    Films(model, out, SETTINGS).run(Console(quiet=True))
    return out


def test_each_prompt_is_a_film_of_its_length_in_the_folder_of_its_policy(run: Path) -> None:
    folders = sorted((run / "videos").iterdir())
    assert [folder.name.rpartition("-")[0] for folder in folders] == ["sink_window-3", "window-3"]
    for folder in folders:
        assert sorted(file.name for file in folder.iterdir()) == ["a cat walks-0.mp4", "a storm at sea-0.mp4"]
        with av.open(str(folder / "a cat walks-0.mp4")) as film:
            stream = film.streams.video[0]
            assert sum(1 for _ in film.decode(stream)) == 26 and stream.average_rate == SMALL.fps


def test_the_figures_are_in_json_and_a_table_and_say_why_vbench_gave_none(run: Path) -> None:
    result = json.loads((run / "eval.json").read_text())
    assert [cell["policy"] for cell in result["cells"]] == ["window", "sink_window"]
    for cell in result["cells"]:
        assert cell["peak_bytes"] > 2**20 and len(cell["films"]) == 2
        assert all(film["pictures"] == 26 and film["seconds"] > 0 for film in cell["films"])
        assert cell["vbench"].startswith("VBench is not installed: clone ")
    told = markdown(result)
    assert "| window | 3 | " in told and told.count("VBench is not installed: clone ") == 1


def test_a_run_goes_on_where_it_was_and_never_mixes_with_another(run: Path) -> None:
    model, before = random_model(SMALL, seed=0, dtype=torch.float32), (run / "eval.json").read_text()
    Films(model, run, SETTINGS).run(Console(quiet=True))
    assert (run / "eval.json").read_text() == before
    other = FilmSettings(prompts=("b",), policies=("window",), budgets=(3.0,))
    with pytest.raises(EvalError, match="contains another evaluation"):
        Films(model, run, other).run(Console(quiet=True))


def test_drift_and_flickering_are_those_of_the_pictures() -> None:
    still, shown = Watcher(look=2), Watcher(look=2)
    grey = np.full((8, 8, 8, 3), 100, np.uint8)
    still.see(grey)
    film = still.film(1.0)
    assert (film.pictures, film.flickering, film.motion, film.colour) == (8, 1.0, 0.0, 0.0)
    flashing = grey.copy()
    flashing[1::2] = 151  # 51 gray levels of 255, to and fro
    flashing[6:] += 40
    shown.see(flashing[:3])
    shown.see(flashing[3:])
    film = shown.film(1.0)
    steps = np.abs(np.diff(flashing[:, 0, 0, 0].astype(int)))
    assert film.flickering == pytest.approx((255 - steps.mean()) / 255)
    assert film.colour == pytest.approx(20)  # 40 in the mean, none in the spread over pixels
    assert film.motion == pytest.approx(255 * (1 - film.flickering))


def test_vbenchs_own_program_is_asked_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "vbench2_beta_long"
    (package / "configs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "eval_long.py").write_text(
        "import json, sys; a = sys.argv; out = a[a.index('--output_path') + 1]\n"
        "assert a[a.index('--mode') + 1] == 'long_custom_input' and a[a.index('--videos_path') + 1] == 'films'\n"
        "scores = {name: [0.5, []] for name in a[a.index('--dimension') + 1:]}\n"
        "scores['subject_consistency'] = [None, []]\n"  # of films with one clip each
        "json.dump(scores, open(out + '/results_now_eval_results.json', 'w'))\n"
    )
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])
    assert "lacks VBench_full_info.json" in vbench(Path("films"), tmp_path / "wheel"), (
        "as the wheel of VBench 0.1.5 does"
    )
    for name in VBENCH_DATA:
        (package / name).touch()
    scores = vbench(Path("films"), tmp_path / "out")
    assert isinstance(scores, dict) and scores["imaging_quality"] == 0.5 and len(scores) == 5
    (package / "eval_long.py").write_text("raise SystemExit('no GPU here')")
    assert vbench(Path("films"), tmp_path / "none") == "VBench ended with status 1: no GPU here"


def test_films_that_exist_are_scored_once_vbench_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = random_model(SMALL, seed=0, dtype=torch.float32), []
    monkeypatch.setattr(
        "model.distill.evaluation.films.vbench", lambda videos, out: asked.append(videos) or {"imaging_quality": 0.5}
    )
    for _ in range(2):
        result = Films(model, run, SETTINGS).run(Console(quiet=True))
        assert [cell["vbench"] for cell in result["cells"]] == [{"imaging_quality": 0.5}] * 2
    assert asked == [run / cell["folder"] for cell in result["cells"]], "each once"


def test_a_prompt_becomes_a_file_name() -> None:
    assert file_name(" a/b\\c\n d. ") == "a b c d" and len(file_name("é" * 300).encode()) == 200
    assert file_name("take_1 -Scene-2") == "take 1 Scene-2", "VBench-long groups clips by what stands before these"


def test_prompts_that_begin_alike_and_equal_ones_have_a_film_each(tmp_path: Path) -> None:
    long = "a mill " * 40
    settings = FilmSettings((f"{long} by day", f"{long} by night"), ("window", "window"), (3.0,), (2 / 960,))
    result = Films(random_model(SMALL, seed=0, dtype=torch.float32), tmp_path, settings).run(Console(quiet=True))
    (folder,) = (tmp_path / "videos").iterdir()
    assert [file.stem[-2:] for file in sorted(folder.iterdir())] == ["-0", "-1"] and len(result["cells"]) == 1


def test_a_policy_without_its_head_is_refused_and_not_left_out(tmp_path: Path) -> None:
    model = replace(random_model(SMALL, seed=0, dtype=torch.float32), salience=None)
    with pytest.raises(EvalError, match="pafu needs a head of this model: name one"):
        Films(model, tmp_path, FilmSettings(("a",), ("window", "pafu"), (3.0,)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompts": ()}, "write one per line"),
        ({"policies": ("full",)}, "'full' cannot make films of any length; known: window"),
        ({"budgets": (0.0,)}, "give latent frames above 0"),
        ({"minutes": (0.0,)}, "give lengths above 0"),
    ],
)
def test_what_cannot_be_evaluated_is_named(changed: dict[str, object], said: str) -> None:
    with pytest.raises(EvalError, match=said):
        FilmSettings(**{"prompts": ("a",), "policies": ("window",), "budgets": (3.0,), **changed})  # type: ignore[arg-type]
