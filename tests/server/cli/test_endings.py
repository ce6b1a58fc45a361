"""Promise: after Ctrl-C or a broken pipe, a command says what it has written; nothing is lost silently."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from server.cli.ending import Interrupts, Written

ROOT = Path(__file__).resolve().parents[3]
PATHS = f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}"
ENDLESS = ("generate", "a house", "--model", "test-tiny", "--seconds", "3600", "--seed", "5")


def start(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        env={**environ, "PYTHONPATH": PATHS, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pictures(video: bytes) -> int:
    with av.open(io.BytesIO(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def grown(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the file, or its partial file, has content."""
    while not any(part.stat().st_size for part in path.parent.glob(f"{path.name}*")):
        assert process.poll() is None, process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_video_that_is_ended_before_its_time_is_kept_and_told(tmp_path, number: int, status: int) -> None:
    path = tmp_path / "out.mp4"
    process = start(*ENDLESS, "-o", str(path), "--json")
    grown(path, process)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    report = json.loads(out)
    assert process.returncode == status and error == b"", "no progress bar where nobody looks"
    assert (report["stopped"], report["seed"], report["file"], report["wanted"]) == (True, 5, str(path), 57600)
    assert pictures(path.read_bytes()) == report["pictures"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"], "no part is left"


def test_a_second_signal_ends_a_step_at_once_and_one_ends_a_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts, interrupts.waiting():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with interrupts.waiting():
            raise AssertionError("nobody waits any more")
    assert signal.getsignal(signal.SIGINT) == before


def test_the_line_tells_pictures_seed_and_file() -> None:
    whole = Written("out.mp4", 160, 160, 16, 7, 4.0, 0)
    assert whole.line() == "out.mp4: 160 pictures, seed 7, 10.0 s of video in 4.0 s" and whole.status == 0
    part = Written("out.mp4", 48, 160, 16, 7, 4.0, signal.SIGINT)
    assert part.line().startswith("stopped; out.mp4: 48 of 160 pictures, seed 7") and part.status == 130
    endless = Written("live.mp4", 48, None, 16, 7, 4.0, signal.SIGINT)
    assert endless.line().startswith("stopped; live.mp4: 48 pictures") and endless.status == 0, "it has no other end"
    assert "nothing was written" in Written("out.mp4", 0, 160, 16, 7, 0.1, signal.SIGINT).line()


def test_a_command_without_a_word_of_its_own_says_that_it_stopped(tmp_path) -> None:
    process = start("bench", "--model", "test-tiny", "--seconds", "600", XDG_STATE_HOME=str(tmp_path))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():  # its server
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, b"")
    assert error.decode().strip() == "pafu: error: stopped before the end; nothing was written"


VISIT = ("demo", "memory", "--model", "test-tiny", "--away", "1", "-o", "-")


@pytest.mark.parametrize("arguments", [("version", "--json"), ("--help",), ("doctor", "--json"), VISIT])
def test_a_reader_that_has_gone_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    process = start(*arguments, PAFU_MODEL="test-tiny")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait(120)
    assert error == b"", "neither a traceback nor a complaint"


def test_programs_read_json(tmp_path) -> None:
    made = start("version", "--json").communicate(timeout=120)[0]
    assert set(json.loads(made)) == {"version", "versions"} and "torch" in json.loads(made)["versions"]
    looked = json.loads(start("doctor", "--json", "--port", "0", PAFU_MODEL="test-tiny").communicate(timeout=120)[0])
    assert looked["fine"] is all(finding["fine"] for finding in looked["findings"])
    assert {"torch", "port", "memory", "speed"} <= {finding["name"] for finding in looked["findings"]}


def test_the_version_is_an_option_too_and_shells_can_complete() -> None:
    from server import __version__

    assert start("--version").communicate(timeout=120)[0].decode() == f"pafu {__version__}\n"
    assert json.loads(start("--version", "--json").communicate(timeout=120)[0])["version"] == __version__
    asked = {"_PAFU_COMPLETE": "complete_bash", "COMP_WORDS": "pafu gen", "COMP_CWORD": "1"}
    assert start(**asked).communicate(timeout=120)[0].decode().split() == ["generate"]


def test_an_unknown_line_of_a_configuration_names_its_neighbour(tmp_path) -> None:
    file = tmp_path / "pafu.toml"
    file.write_text("max_sesions = 3\n")
    error = start("serve", "--config", str(file)).communicate(timeout=120)[1].decode()
    assert "max_sesions" in error and "max_sessions" in error and len(error.splitlines()) == 1
