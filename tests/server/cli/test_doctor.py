"""Promise: pafu doctor checks what pafu serve needs, finds problems, and says how to fix them."""

from __future__ import annotations

import importlib.metadata
import io
import math
import re
import socket
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from cache.config import CACHE_SHARE
from cache.kv_cache import KVCache
from model.cost.memory import plan
from model.spec import spec_named
from model.transformer.passes import geometry_of
from model.weights import preferred_dtype
from server import process
from server.cli import doctor, memory
from server.cli.generate import GenerateError, write_video
from server.config import ConfigError, Settings
from server.engine.slots import slots_for
from tests.model.checkpoints import small_wan, write

SPEC = spec_named("test-tiny")
DTYPE = str(preferred_dtype("cpu")).removeprefix("torch.")  # not the same on every CPU


def test_the_bytes_of_a_session_are_those_that_its_cache_will_take() -> None:
    import torch

    settings = Settings(model="test-tiny", cache_budget_latents=9)
    cache = KVCache(
        geometry_of(SPEC, torch.float32, "cpu"),
        budget=9 * SPEC.tokens_per_latent,
        policy="window",
        sink=0,
        recent=0,
        position_range=None,
    )
    assert doctor.session_bytes(settings, SPEC, "float32") == cache.nbytes


def test_as_many_sessions_fit_as_the_server_will_admit(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 2**30)
    settings = Settings(model="test-tiny", device="cpu", max_sessions=4)
    room = round(CACHE_SHARE * 2**30)
    fit = room // doctor.session_bytes(settings, SPEC, DTYPE)
    assert doctor.sessions(settings, SPEC, []).startswith(f"{fit} fit")
    with pytest.raises(doctor.Wrong, match=f"PAFU_MAX_SESSIONS is {fit + 1}: reduce it"):
        doctor.sessions(Settings(model="test-tiny", device="cpu", max_sessions=fit + 1), SPEC, [])


def test_room_that_was_set_counts_instead_of_what_is_free() -> None:
    one = doctor.session_bytes(Settings(model="test-tiny"), SPEC, DTYPE)
    settings = Settings(model="test-tiny", device="cpu", max_sessions=2, cache_room_bytes=2 * one)
    assert doctor.sessions(settings, SPEC, []).startswith("2 fit")


def test_memory_that_is_nearly_gone_fits_nobody(monkeypatch) -> None:
    one = doctor.session_bytes(Settings(model="test-tiny"), SPEC, DTYPE)
    monkeypatch.setattr(doctor, "available_bytes", lambda: one)  # of which caches get a share
    with pytest.raises(doctor.Wrong, match="^0 fit"):
        doctor.sessions(Settings(model="test-tiny", device="cpu"), SPEC, [])


def test_weights_larger_than_the_memory_are_not_even_opened(monkeypatch, tmp_path) -> None:
    with (tmp_path / "dit.safetensors").open("wb") as file:
        file.truncate(3 * 2**30)
    monkeypatch.setattr(doctor, "available_bytes", lambda: 2 * 2**30)
    with pytest.raises(doctor.Wrong, match=r"has 3.0 GiB, but 2.0 GiB are free: free memory"):
        doctor.weights(Settings(model="pafu-mini", device="cpu", weights=tmp_path), [])


def test_a_container_s_limit_counts_less_what_can_be_dropped(tmp_path) -> None:
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 500\ninactive_file 150\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert process._left_in_container(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert process._left_in_container(tmp_path) == math.inf
    assert process._left_in_container(tmp_path / "nothing") == math.inf


@pytest.mark.parametrize(
    ("package", "version", "told"),
    [
        ("uvicorn", "0.51.0", r"uvicorn is 0\.51\.0, but at least 0\.5"),
        ("torch", "2.10.1", r"at least 2\.11 is needed"),
    ],
)
def test_a_package_that_is_too_old_is_named_with_what_is_needed(monkeypatch, package, version, told) -> None:
    assert doctor.outdated() == []
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else real(name))
    (found,) = doctor.outdated()
    assert re.search(told, found)


@pytest.mark.parametrize("bounds", [">=99,<100", "<100,>=99"])
def test_upper_bounds_do_not_hide_the_lower_ones(monkeypatch, bounds) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: [f"uvicorn{bounds}", 'uvicorn>=98; extra == "x"'])
    (found,) = doctor.outdated()
    assert found.endswith("at least 99 is needed")


def test_where_pafu_is_no_package_its_project_file_says_what_it_needs(monkeypatch) -> None:
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert any(line.startswith("torch==") for line in doctor.requirements())


def test_a_python_that_is_too_old_is_told_in_one_line() -> None:
    code = "import sys; sys.version_info = (3, 10, 4); import server"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=doctor.ROOT)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "pafu: error: Pafu needs Python 3.11 or newer, this is 3.10\n"


@pytest.mark.parametrize(("older", "newer"), [("0.9", "0.10"), ("1.2.3", "1.10"), ("2.0.0rc1", "2.1")])
def test_versions_are_compared_as_numbers(older, newer) -> None:
    assert doctor.numbers(older) < doctor.numbers(newer)


def test_a_metrics_port_that_is_taken_is_named_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="--metrics-port or PAFU_METRICS_PORT"):
            doctor.metrics_port(Settings(metrics_port=taken.getsockname()[1]))


def test_every_finding_is_a_line_of_its_own_and_one_that_is_wrong_makes_all_wrong(tmp_path) -> None:
    seen = io.StringIO()
    settings = Settings(model="test-tiny", port=0, database="mysql://here/pafu", data_dir=tmp_path)
    assert not doctor.examine(settings, Console(file=seen))
    lines = seen.getvalue().splitlines()
    (wrong,) = [line for line in lines if line.startswith("no")]
    assert "mysql" in wrong and "see PAFU_DATABASE" in wrong
    assert len(lines) == len(list(doctor.examinations(settings))) + 2
    assert doctor.examine(Settings(model="test-tiny", port=0, data_dir=tmp_path), Console(file=seen))


def test_each_of_several_workers_has_a_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "available_bytes", lambda: 3 * 2**30)
    settings = Settings(model="test-tiny", device="cpu:2", threads=2, port=0, data_dir=tmp_path)
    seen = io.StringIO()
    assert doctor.examine(settings, Console(file=seen))
    room = round(CACHE_SHARE * 3 * 2**30 / 2)
    fit = room // doctor.session_bytes(settings, SPEC, DTYPE)
    for worker in ("worker 0", "worker 1"):
        assert re.search(rf"ok +{worker} +cpu, 1 threads: {fit} fit", seen.getvalue())
    assert f"{2 * fit} fit on 2 workers" in seen.getvalue()
    assert "on worker 0 alone)" in seen.getvalue()


def test_a_device_that_is_not_there_is_a_finding(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("server.engine.slots.count_gpus", lambda: (1, ""))
    seen = io.StringIO()
    assert not doctor.examine(Settings(model="test-tiny", device="cuda:3", data_dir=tmp_path), Console(file=seen))
    assert re.search(r"no +torch +PAFU_DEVICE: 'cuda:3' was requested, but torch sees only cuda:0", seen.getvalue())


def test_a_group_has_a_line_and_is_measured_as_one(tmp_path) -> None:
    settings = Settings(model="test-tiny", device="cpu+cpu", threads=2, port=0, data_dir=tmp_path)
    seen = io.StringIO()
    assert doctor.examine(settings, Console(file=seen, width=200))
    assert "cpu+cpu, a group of 2 processes, 1 threads each: " in seen.getvalue()
    assert not torch.distributed.is_initialized(), "a group that ends leaves nothing behind"
    assert "in real time at once (a chunk plays" in seen.getvalue()


def test_a_model_that_does_not_fit_is_not_loaded_and_the_table_says_what_would(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    write(tmp_path, small_wan())
    settings = Settings(model="test-wan", device="cpu", weights=tmp_path)
    seen = io.StringIO()
    with pytest.raises(GenerateError, match="not enough memory for test-wan on cpu: one session needs .* does not fit"):
        write_video(settings, "a cat", str(tmp_path / "x.mp4"), 1.0, 1, Console(file=seen, width=200))
    assert "80 GB card" in seen.getvalue() and not (tmp_path / "x.mp4").exists()
    with pytest.raises(doctor.Wrong, match="is not loaded, because the model does not fit"):
        doctor.weights(settings, [], fits=False)


def test_two_workers_on_one_cpu_need_the_memory_of_two(monkeypatch) -> None:
    one, two = (Settings(model="test-wan", device=device, threads=2) for device in ("cpu", "cpu:2"))
    least = plan(one.spec, one.cache(), preferred_dtype("cpu"), "cpu", one.text_placement).least
    monkeypatch.setattr(memory, "available_bytes", lambda: int(1.5 * least))
    assert memory.count_one_of(one, slots_for(one))[1] is None
    rows, why = memory.count_one_of(two, slots_for(two))
    assert why and "GiB are free for each of 2 processes; it does not fit" in why
    assert any(row[0].endswith("GiB free for each of 2 processes") for row in rows)


def test_a_data_folder_that_is_not_there_yet_is_fine_and_stays_away(tmp_path) -> None:
    settings = Settings(model="test-tiny", data_dir=tmp_path / "new" / "data")
    assert "GiB free" in doctor.data_folder(settings) and "jobs.sqlite" in doctor.check_jobs(settings)
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray")
    settings = Settings(model="test-tiny", engine="ray", ray_address="127.0.0.1:1")
    assert "cluster" in [name for name, _ in doctor.checks(settings, SPEC, [], None, True)]
    with pytest.raises(ConfigError, match="there is no Ray cluster at '127.0.0.1:1'"):
        doctor.cluster(settings)
