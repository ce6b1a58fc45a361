"""Promise: the wheels install, serve and uninstall, in any folder, whatever files it contains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from server.bench.launch import ServerProcess, get_json

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "server", "model", "cache", "clients")
NAMES = (
    "server",
    "model",
    "cache",
    "clients",
    "pafu_client",
    "random",
    "grp",
    "json",
    "av",
)  # what Pafu or Python imports
PATIENCE = 300.0


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The two wheels, built from copies, since a build leaves files behind."""
    copy, out = tmp_path_factory.mktemp("sources") / "pafu", tmp_path_factory.mktemp("wheels")
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
            )
        else:
            shutil.copy(ROOT / name, copy)
    for source in (copy, copy / "clients" / "python"):
        pip(
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            str(out),
            str(source),
            python=sys.executable,
        )
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def pip(*arguments: str, python: str) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "--python",
        python,
        "--quiet",
        "--disable-pip-version-check",
        *arguments,
    ]
    # without PYTHONPATH: the repository's egg-info would make pip believe that Pafu is there already
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with Pafu's dependencies from this one, but without Pafu."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with user programs of conflicting names; each leaves a mark if it runs."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'a').write({name + ' '!r})\nraise SystemExit(9)\n"
        )
    return folder


def test_an_installed_pafu_serves_from_a_folder_full_of_its_own_names(
    wheels, environment, hostile, monkeypatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    pip("install", "--no-deps", "--no-index", str(wheels["pafu"]), python=str(environment / "python"))
    settings = {"data_dir": hostile.parent / "data", "ready_wait": 120}
    server = ServerProcess(settings, [str(environment / "pafu"), "serve"], hostile)
    try:
        server.wait_ready()
        url = server.url()
        page = httpx.get(url, trust_env=False)
        assert page.status_code == 200 and "<canvas" in page.text or "<video" in page.text
        assert Path(f"/proc/{server.process.pid}/cwd").resolve() == hostile
        order = {"prompt": "a red mill", "num_frames": 12}
        job = httpx.post(f"{url}/v1/videos", json=order, trust_env=False).raise_for_status().json()
        give_up = time.monotonic() + PATIENCE
        while (state := get_json(f"{url}/v1/videos/{job['id']}")[1])["status"] in ("queued", "in_progress"):
            assert time.monotonic() < give_up, state
            time.sleep(0.1)
        assert state["status"] == "completed", state
    finally:
        server.stop()
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()


@pytest.mark.parametrize(("first", "second"), [("pafu", "pafu-client"), ("pafu-client", "pafu")])
def test_server_and_client_are_removed_apart(wheels, environment, tmp_path, first: str, second: str) -> None:
    python, module = str(environment / "python"), {"pafu": "server.cli.main", "pafu-client": "pafu_client"}
    pip("install", "--no-deps", "--no-index", *map(str, wheels.values()), python=python)
    pip("uninstall", "--yes", first, python=python)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name, there in ((first, False), (second, True)):
        run = subprocess.run(
            [python, "-P", "-c", f"import {module[name]}"], env=environ, capture_output=True, text=True
        )
        assert (run.returncode == 0) is there, run.stderr


def test_no_file_belongs_to_both(wheels) -> None:
    server, client = (set(zipfile.ZipFile(wheels[name]).namelist()) for name in ("pafu", "pafu_client"))
    assert not server & client
    assert "pafu_client/py.typed" in client and "clients/web/index.html" in server
    assert "clients/js/client/player-element.js" in server
    assert any(name.startswith("model/weights_mini/") and name.endswith(".safetensors") for name in server)
    assert not any(name.endswith((".pyc", "package.json")) for name in server)
