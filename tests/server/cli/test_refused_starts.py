"""Promise: a start that is refused says why in one line and leaves nothing behind: no file, no folder, no process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.config import Settings
from server.jobs.database import check, known_stores, make_stores

HERE = Path(__file__).parent
SERVE = (sys.executable, "-P", "-m", "server.cli", "serve", "--port", "0")

REFUSED = {
    "a device that is not there": (["--device", "cuda:99"], {}, "'cuda:99' was requested"),
    "a device given twice": (["--device", "cuda:0+cuda:0"], {}, "'cuda:0' is given twice"),
    "a group that cannot share the model": (
        ["--device", "cpu+cpu+cpu", "--model", "test-tiny"],
        {},
        "which 3 devices cannot share",
    ),
    "no weights": (["--weights", "/srv/nowhere"], {}, "--weights: /srv/nowhere is missing"),
    "a folder without weights": (["--weights", str(HERE)], {}, f"{HERE} has no .safetensors file"),
    "no head": ([], {"PAFU_SALIENCE_HEAD": "/srv/no.head"}, "PAFU_SALIENCE_HEAD: /srv/no.head is missing"),
    "no cluster": (["--engine", "ray", "--ray-address", "127.0.0.1:1"], {}, "there is no Ray cluster at"),
    "no database": ([], {"PAFU_DATABASE": "postgresql://u@127.0.0.1:1/x"}, "Connection refused"),
    "no such store": ([], {"PAFU_VIDEOS": "nonsense://x"}, "videos cannot be stored"),
    "no such store for sessions": ([], {"PAFU_SESSIONS": "/proc/nothing"}, "sessions cannot be stored"),
    "no such path": ([], {"PAFU_PUBLIC_PATHS": "/nowhere"}, "is not a path of this server"),
    "too little memory": ([], {"PAFU_CACHE_ROOM_BYTES": "1000"}, "none could ever start"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_refused_start_leaves_nothing_behind(case: str, tmp_path: Path) -> None:
    flags, variables, said = REFUSED[case]
    if case == "no cluster":
        pytest.importorskip("ray")
    ran = serve(tmp_path, *flags, **variables)
    assert ran.returncode in (1, 2, 3), ran.stderr
    assert said in ran.stderr and "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())


def test_nor_does_one_whose_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ran = serve(tmp_path, "--port", str(other.getsockname()[1]))
    assert "in use by another program" in ran.stderr and not list(tmp_path.iterdir())


def test_checking_the_stores_creates_none_and_finds_existing_ones(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", videos=f"dir::file://{tmp_path}/videos")
    check(settings)
    assert {found for found, _ in known_stores(settings).values()} == {""}
    assert not list(tmp_path.iterdir())
    made = make_stores(settings)
    assert all(found for found, _ in made.values())
    assert known_stores(settings) == made == make_stores(settings)


def serve(folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {"PAFU_DATA_DIR": str(folder / "data"), "COLUMNS": "200", **variables}
    return subprocess.run((*SERVE, *flags), capture_output=True, text=True, env=environ, timeout=240)
