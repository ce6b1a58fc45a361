"""Promise: ``pafu simulate`` gives figures that can be checked by hand, and the same day for the same seed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from server.simulate.day import Cluster, Day, Demand, Simulation
from server.simulate.report import places_of, service_of
from server.simulate.worker import Load, Service, load_of, loads

STEADY = Service(((0.0, 0.2), (1.0, 0.2)), 0.75)  # every chunk of .75 s takes .2 s
FREE = [Load(viewers, 0.2 * viewers, 0.0, 0.0) for viewers in range(4)]
ALWAYS = (1.0,) * 24


def day(cluster: Cluster, per_hour: float, stay: float = 300.0, patience: float = 60.0, seed: int = 1) -> Day:
    demand = Demand(per_hour=per_hour, stay=stay, patience=patience, profile=ALWAYS)
    return Simulation(cluster, demand, FREE, 0.75, seed).run(24)


def test_a_worker_is_busy_for_its_viewers_share_and_late_only_when_there_are_too_many() -> None:
    for viewers in (1, 2, 3):
        load = load_of(STEADY, viewers, 1.25, 300, seed=1)
        assert load.busy == pytest.approx(viewers * 0.2 / 0.75, rel=0.05) and load.missed == 0
    assert load_of(STEADY, 4, 1.25, 300, seed=1).missed > 0.2, "four need .8 s of every .75"


def test_viewers_who_come_one_after_another_have_a_lead_before_there_are_too_many() -> None:
    slow = Service(((0.0, 0.19), (1.0, 0.19)), 0.75)  # four need .76 s of every .75
    assert load_of(slow, 4, 3.0, 27, seed=1).missed > 0.5
    assert load_of(slow, 4, 3.0, 27, seed=1, come_within=12.0).missed == 0
    assert load_of(slow, 4, 3.0, 1000, seed=1, come_within=12.0).missed > 0.3, "a lead does not last"


def test_chunks_that_sometimes_take_longer_are_sometimes_late() -> None:
    uneven = Service(((0.0, 0.2), (0.95, 0.2), (1.0, 2.5)), 0.75)
    assert uneven.mean == pytest.approx(0.95 * 0.2 + 0.05 * 1.35)
    assert 0 < load_of(uneven, 2, 1.25, 400, seed=1).missed < load_of(uneven, 2, 0.3, 400, seed=1).missed


def test_with_places_for_all_nobody_waits_and_viewer_hours_are_those_of_littles_law() -> None:
    found = day(Cluster(gpus=40, places=3), per_hour=240)
    assert found.refused == 0 and max(found.waits) == 0
    assert found.watched / 86400 == pytest.approx(240 * 300 / 3600, rel=0.1), "20 viewers on average"
    assert found.busy / found.up == pytest.approx(0.2 * 20 / 40, rel=0.12)


def test_one_place_refuses_what_erlangs_formula_says() -> None:
    """An M/M/1/1 queue: with as many arrivals as departures, half are refused."""
    found = day(Cluster(gpus=1, places=1), per_hour=60, stay=60.0, patience=1e-6)
    assert found.refused / found.arrived == pytest.approx(0.5, abs=0.04)


def test_failures_and_rollouts_cost_a_move_and_no_viewer() -> None:
    broken = day(Cluster(gpus=8, places=3, hours_between_failures=2.0, rollouts=(12.0,)), per_hour=120)
    assert broken.moved > 20 and broken.refused == 0
    assert broken.up < 8 * 86400 - 8 * 90
    assert broken.watched == pytest.approx(day(Cluster(gpus=8, places=3), per_hour=120).watched, rel=0.02)


def test_the_same_seed_is_the_same_day() -> None:
    cluster = Cluster(gpus=2, places=2, hours_between_failures=3.0)
    assert day(cluster, 100) == day(cluster, 100) and day(cluster, 100) != day(cluster, 100, seed=2)


def bench(path: Path) -> Path:
    spread = {"p50": 0.14, "p95": 0.16, "max": 0.3}
    path.write_text(json.dumps({"throughput": {"chunk_seconds": spread}, "model": {"chunk_frames": 12, "fps": 16}}))
    return path


def test_a_worker_makes_as_many_chunks_as_it_did_at_full_speed(tmp_path: Path) -> None:
    """It decodes one beside the next one's passes, so it is done with a chunk earlier than the viewer has it."""
    measured = json.loads(bench(tmp_path / "bench.json").read_text())
    alone = service_of(measured)
    measured["throughput"]["pictures_per_second"] = 12 / 0.1
    beside = service_of(measured)
    assert beside.mean == pytest.approx(0.1) and alone.mean > 0.14
    assert [now / then for (_, now), (_, then) in zip(beside.quantiles, alone.quantiles, strict=True)] == pytest.approx(
        [0.1 / alone.mean] * 4
    )
    measured["throughput"]["pictures_per_second"] = None  # too short a bench to tell
    assert service_of(measured) == alone


def test_a_table_and_json_from_a_bench(tmp_path: Path) -> None:
    file = bench(tmp_path / "bench.json")
    measured = json.loads(file.read_text())
    service = service_of(measured)
    assert places_of(measured) == 4 and [load.viewers for load in loads(service, 2, 1.25, 20, 1)] == [0, 1, 2]
    run = CliRunner().invoke(app, ["simulate", str(file), "--gpus", "1,3", "--viewers-per-hour", "50", "--json"])
    assert run.exit_code == 0, run.output
    small, large = json.loads(run.stdout)
    assert small["refused"] > large["refused"] and small["utilisation"] > large["utilisation"]
    assert large["cost_per_viewer_hour"] == pytest.approx(3 * 24 * 2.5 / large["viewer_hours"])
    assert math.isclose(small["arrived"], large["arrived"]), "the same viewers come"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["/nowhere.json"], "/nowhere.json"),
        (["FILE", "--gpus", "two"], "--gpus is 'two'"),
        (["FILE", "--gpus", "0"], "each 1 or more"),
        (["FILE", "--rollout-at", "4,30"], "each must be less than 24"),
        (["EMPTY"], "pafu bench -o FILE"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "empty.json").write_text("{}")
    names = {"FILE": str(bench(tmp_path / "bench.json")), "EMPTY": str(tmp_path / "empty.json")}
    run = CliRunner().invoke(app, ["simulate", *(names.get(option, option) for option in options)])
    assert run.exit_code == 2 and said in run.output.replace("\n", " ") and "Traceback" not in run.output
