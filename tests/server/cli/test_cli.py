"""Promise: the command line reports errors in one line with an exit status, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def pafu(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        env={
            **environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}",
            "COLUMNS": "200",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    """The error's line; asserts that there is no other."""
    assert run.returncode != 0 and run.stdout == ""
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith("pafu: error: ")
    return line


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line(pafu("serve", "--port", str(port)))
    assert f"port {port}" in line and "in use" in line and "--port" in line


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (["serve"], {"PAFU_PROT": "1"}, "PAFU_PORT"),
        (["serve", "--model", "no-such"], {}, "unknown model"),
        (["serve", "--host", "no.such.host.invalid"], {}, "no.such.host.invalid"),
        (["serve", "--host", "0.0.0.0"], {}, "--allow-anonymous"),
        (["serve", "--keys-file", "/no/such/file"], {}, "/no/such/file"),
        (["serve"], {"PAFU_API_KEYS": "short"}, "PAFU_API_KEYS"),
        (["serve"], {"PAFU_DATA_DIR": "/proc/nothing"}, "/proc/nothing"),
        (["serve", "--port", "18001", "--metrics-port", "18001"], {}, "metrics_port"),
        (["serve"], {"PAFU_VIDEOS": "ftp://me:secret@no.such.host.invalid/x"}, "at ftp://...@no.such.host.invalid/x"),
        (["keys", "list"], {}, "--keys-file"),
        (["keys", "add", "Alice", "--keys-file", "/tmp/x.toml"], {}, "Alice"),
        (["generate", "x", "--model", "no-such"], {}, "unknown model"),
        (["generate", "", "--model", "test-tiny"], {}, "prompt is empty"),
        (["generate", "x", "--model", "test-tiny", "-o", "/no/such/folder/x.mp4"], {}, "/no/such/folder"),
        (["generate", "a house", "--weights", "/no/such/folder"], {}, "/no/such/folder"),
        (["serve", "--cache-policy", "lru"], {}, "unknown cache policy 'lru'"),
        (["serve", "--cache-budget-latents", "0"], {}, "--cache-budget-latents: got 0.0"),
        (["serve"], {"PAFU_CACHE_BUDGET_LATENTS": "-1"}, "error: PAFU_CACHE_BUDGET_LATENTS: got '-1'"),
        (["generate", "a house", "--salience-head", "/no/such/head"], {}, "/no/such/head"),
        (
            ["generate", "x", "--model", "test-tiny", "--seconds", "4"],
            {"PAFU_CACHE_POLICY": "full", "PAFU_CACHE_BUDGET_LATENTS": "4"},
            "64 pictures needs 18 latent frames, the budget is 4; raise it (up to 256)",
        ),
        (["watch", "x", "--url", "http://127.0.0.1:9"], {}, "127.0.0.1:9"),
        (["bench", "--url", "http://127.0.0.1:9"], {}, "127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_line_that_names_them(arguments, variables, told) -> None:
    assert told in one_line(pafu(*arguments, **variables))


def test_a_worker_that_can_never_start_ends_the_server_with_its_message() -> None:
    run = pafu("serve", "--port", "0", "--weights", "/no/such/folder")
    assert run.returncode == 3
    assert "/no/such/folder" in run.stderr.splitlines()[-1] and "Traceback" not in run.stderr


def test_doctor_says_what_is_wrong_and_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = pafu("doctor", "--model", "test-tiny", "--port", str(taken.getsockname()[1]))
    assert run.returncode == 1
    rows = {line.split()[1]: line.split()[0] for line in run.stdout.splitlines() if line.startswith(("ok", "no"))}
    assert rows["port"] == "no" and rows["torch"] == rows["encoder"] == rows["weights"] == "ok"


def test_keys_are_made_listed_and_removed(tmp_path) -> None:
    file = {"PAFU_KEYS_FILE": str(tmp_path / "keys.toml")}
    made = pafu("keys", "add", "alice", "--max-jobs", "3", **file)
    secret = made.stdout.strip()
    assert made.returncode == 0 and secret.startswith("pafu_") and secret not in made.stderr
    listed = pafu("keys", "list", **file).stdout
    assert listed.startswith("alice") and "max_jobs=3" in listed and secret not in listed
    assert pafu("keys", "remove", "alice", **file).returncode == 0
    assert pafu("keys", "list", **file).stdout == ""


def test_a_taken_metrics_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line(pafu("serve", "--port", "0", "--metrics-port", str(port)))
    assert f"port {port}" in line and "in use" in line and "--metrics-port" in line


def test_a_configuration_that_cannot_be_read_is_one_clear_line() -> None:
    assert "/no/such/pafu.toml cannot be read" in one_line(pafu("serve", "--config", "/no/such/pafu.toml"))


def test_a_store_that_cannot_be_reached_is_one_clear_line_and_not_its_password() -> None:
    line = one_line(pafu("serve", "--port", "0", PAFU_DATABASE="postgresql://me:hunter2hunter2@127.0.0.1:9/pafu"))
    assert "store cannot be reached" in line and "PAFU_DATABASE" in line and "hunter2" not in line


@pytest.mark.parametrize("wrong", [("serve", "--nonsense"), ("--nonsense",), ("serve", "--port", "x"), ("keys", "add")])
def test_wrong_usage_is_a_line_of_json_when_the_log_is(wrong) -> None:
    run = pafu(*wrong, PAFU_LOG_FORMAT="json")
    (line,) = run.stderr.splitlines()
    told = json.loads(line)
    assert (run.returncode, run.stdout, told["level"]) == (2, "", "error") and "--help" in told["message"]


def test_the_flag_and_the_file_select_json_too_and_valid_usage_is_not_affected(tmp_path) -> None:
    (tmp_path / "pafu.toml").write_text('log_format = "json"\n')
    for asked in (("--log-format=json",), ("--log-format", "json"), ("--config", str(tmp_path / "pafu.toml"))):
        assert json.loads(pafu("serve", *asked, "--nonsense").stderr)["level"] == "error"
    assert pafu("--version", PAFU_LOG_FORMAT="json").returncode == 0
    assert "Usage" in pafu("serve", "--nonsense").stderr
