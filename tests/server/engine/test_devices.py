"""Promise: a device setting means what it says; an impossible one is refused with one line before anything starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from model import gpu
from server.config import ConfigError, Settings, devices, load_settings
from server.config.devices import Slot
from server.engine import slots as finding
from server.engine.placement import Load, least_loaded, share_of


@pytest.mark.parametrize(
    ("text", "gpus", "found"),
    [
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:2,cuda:0", 3, ["cuda:2", "cuda:0"]),
        ("cpu", 4, ["cpu"]),
        ("cpu:2", 0, ["cpu", "cpu"]),
        ("cuda, cpu:2", 1, ["cuda:0", "cpu", "cpu"]),
        ("cuda:0+cuda:2, cuda:1", 3, ["cuda:0+cuda:2", "cuda:1"]),
        ("cpu + cpu,cpu+cpu,cpu", 0, ["cpu+cpu", "cpu+cpu", "cpu"]),
    ],
)
def test_each_part_means_its_workers(text: str, gpus: int, found: list[str]) -> None:
    slots = devices.slots(devices.parse(text), gpus, 8)
    assert [slot.device for slot in slots] == found
    assert [slot.worker for slot in slots] == [str(number) for number in range(len(found))]


def test_threads_and_memory_are_divided_among_workers_that_share_them() -> None:
    assert devices.slots(("cpu:3",), 0, 8) == tuple(Slot(str(n), "cpu", 2, 1 / 3) for n in range(3))
    assert {slot.threads for slot in devices.slots(("cpu:3",), 0, 2)} == {1}
    assert [slot.memory_share for slot in devices.slots(("cuda", "cpu"), 2, 8)] == [1, 1, 1]
    group, alone = devices.slots(("cpu+cpu+cpu", "cpu"), 0, 8)
    assert (group.devices, group.threads, group.memory_share) == (("cpu", "cpu", "cpu"), 2, 1 / 4)
    assert (alone.devices, alone.threads, alone.memory_share) == (("cpu",), 2, 1 / 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu", "'gpu' is not a device"),
        ("", "'' is not a device"),
        ("auto,cpu", "'auto' is not a device"),
        ("cuda:0,", "'' is not a device"),
        ("cuda:-1", "'cuda:-1' is not a device"),
        ("cpu:0", "asks for 0 CPU workers; allowed: 1 to"),
        ("cpu:2000", "asks for 2000 CPU workers"),
        ("cpu,cpu", "'cpu' is given twice"),
        ("cuda:1,cuda:0,cuda:01", "'cuda:1' is given twice"),
        ("cuda,cuda:1", "'cuda' means all GPUs"),
        ("cuda,cuda:0+cuda:1", "'cuda' means all GPUs"),
        ("cuda:0+cuda:0", "'cuda:0' is given twice"),
        ("cuda:0+cuda:1,cuda:1", "'cuda:1' is given twice"),
        ("cuda:0+cpu", "'cuda:0\\+cpu' is not a group of devices; allowed are single GPUs, like cuda:0\\+cuda:1"),
        ("cuda+cuda", "'cuda\\+cuda' is not a group"),
        ("cpu:2+cpu:2", "'cpu:2\\+cpu:2' is not a group"),
        ("cpu+auto", "'auto' is not a device"),
        ("cuda:0+", "'' is not a device"),
    ],
)
def test_a_setting_that_means_nothing_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        devices.parse(text)
    if text:  # an empty variable is no setting
        with pytest.raises(ConfigError, match=said) as refused:
            load_settings({"device": text}, {})
        assert str(refused.value).startswith(f"--device: got {text!r}: ")


@pytest.mark.parametrize(
    ("text", "gpus", "said"),
    [
        ("cuda", 0, "'cuda' was requested, but no driver is visible; or choose cpu or auto"),
        ("cuda:1", 0, "'cuda:1' was requested, but no driver is visible"),
        ("cuda:1", 1, "'cuda:1' was requested, but torch sees only cuda:0"),
        ("cuda:0,cuda:8", 8, "'cuda:8' was requested, but torch sees cuda:0 to cuda:7"),
        ("cuda:0+cuda:8", 8, "'cuda:8' was requested, but torch sees cuda:0 to cuda:7"),
    ],
)
def test_a_device_that_is_not_there_is_named(text: str, gpus: int, said: str, monkeypatch) -> None:
    monkeypatch.setattr(finding, "count_gpus", lambda: (gpus, "" if gpus else "no driver is visible"))
    with pytest.raises(ConfigError, match=said):
        finding.slots_for(Settings(device=text))


def test_torch_is_asked_only_where_a_gpu_could_be(monkeypatch, tmp_path) -> None:
    asked: list[int] = []
    monkeypatch.setattr(finding, "count_gpus", lambda: asked.append(1) or (2, ""))
    monkeypatch.setattr(finding, "DRIVERS", (tmp_path / "driver",))
    for device in ("cpu", "cpu:2", "auto"):
        assert all(slot.device == "cpu" for slot in finding.slots_for(Settings(device=device)))
    assert not asked
    (tmp_path / "driver").touch()
    assert [slot.device for slot in finding.slots_for(Settings(device="auto"))] == ["cuda:0", "cuda:1"]
    assert asked


def test_a_server_without_a_gpu_says_why_and_what_helps() -> None:
    if gpu.count():
        pytest.skip("this machine has a GPU")
    way_out = "install the CUDA build" if torch.version.cuda is None else "driver"
    with pytest.raises(ConfigError, match=way_out):
        finding.slots_for(Settings(device="cuda"))


@pytest.mark.parametrize(
    ("driver", "said_by_torch", "said"),
    [
        (
            False,
            "",
            "can use a GPU, but no driver is visible; install NVIDIA's driver, or start the container with --gpus all",
        ),
        (True, "The NVIDIA driver on your system is too old (found version 11040).\nPlease update", "is too old"),
        (True, "", "no GPU is visible; see CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_cuda_build_without_a_gpu_names_the_cause(
    driver: bool, said_by_torch: str, said: str, monkeypatch, tmp_path
) -> None:
    def init() -> None:
        if said_by_torch:
            raise RuntimeError(said_by_torch)

    (tmp_path / "driver").touch()
    monkeypatch.setattr(gpu, "DRIVERS", (tmp_path / ("driver" if driver else "none"),))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert said in gpu.why_none()
    assert "\n" not in gpu.why_none()


def test_a_torch_that_cannot_say_what_there_is_is_quoted(monkeypatch) -> None:
    monkeypatch.setattr(finding, "COUNT_GPUS", "raise SystemExit('the driver is too old')")
    with pytest.raises(ConfigError, match="torch could not list the GPUs: the driver is too old"):
        finding.slots_for(Settings(device="cuda"))


def test_serve_ends_in_one_line_and_opens_no_port(tmp_path) -> None:
    command = (sys.executable, "-P", "-m", "server.cli", "serve", "--port", "0", "--device", "cuda:99")
    ran = subprocess.run(
        command, capture_output=True, text=True, env={"PAFU_DATA_DIR": str(tmp_path), "COLUMNS": "200"}, timeout=120
    )
    assert ran.returncode == 1
    assert len(ran.stderr.strip().splitlines()) == 1 and "'cuda:99' was requested" in ran.stderr
    assert "open http" not in ran.stderr


# ---- placement


def load(held: int = 0, room: int = 100, live: int = 0, background: int = 0, most: int = 10) -> Load:
    return Load(held, room, live, background, most)


@pytest.mark.parametrize(
    ("workers", "chosen"),
    [
        ({"a": load(), "b": load()}, "a"),
        ({"a": load(held=10, live=1), "b": load()}, "b"),
        ({"slow": load(held=10, live=1, most=2), "fast": load(held=30, live=3, most=16)}, "fast"),
        ({"small": load(room=20), "large": load(held=30, room=100, live=3)}, "large"),
        ({"job": load(held=10, background=1), "viewer": load(held=10, live=1)}, "job"),
    ],
)
def test_a_viewer_goes_where_it_loads_least_by_memory_and_speed(workers: dict[str, Load], chosen: str) -> None:
    assert least_loaded(workers.items(), 10, background=False) == chosen


def test_a_job_goes_where_neither_viewers_nor_jobs_are() -> None:
    workers = {"job": load(held=10, background=1), "viewer": load(held=10, live=1), "free": load(held=10)}
    assert least_loaded(workers.items(), 10, background=True) == "free"
    assert least_loaded({}.items(), 10, background=True) is None


def test_a_setting_is_shared_evenly_and_never_away() -> None:
    assert [share_of(most, 2) for most in (1, 2, 3, 8)] == [1, 1, 2, 4]
