"""Promise: log lines are readable by people or machines, name session and request, and contain prompts only on
demand."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from server.cli.console import fail, say
from server.engine.worker_stderr import WorkerStderr
from server.telemetry import logs, repeats

log = logging.getLogger("pafu.test")


@pytest.fixture
def written(monkeypatch):
    """Configure logging and read back what was written; restores the test's own logging."""
    root = logging.getLogger()
    before, level, stream = list(root.handlers), root.level, io.StringIO()

    def read(**options) -> io.StringIO:
        monkeypatch.setattr("sys.stderr", stream)  # now: pytest puts its own in place for each phase
        logs.configure(**{"level": "info", "format": "json", **options})
        return stream

    yield read
    logs.configure("info", "text")
    root.handlers[:] = before
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_time_level_process_and_ids(written) -> None:
    stream = written(process="worker")
    with logs.about(session_id="sess_1", request_id="req_1"):
        log.warning("it is %s", "so")
    log.info("after")
    first, second = lines(stream)
    assert first["time"].endswith("Z") and first["level"] == "warning" and first["process"] == "worker"
    assert (first["message"], first["session_id"], first["request_id"]) == ("it is so", "sess_1", "req_1")
    assert "session_id" not in second


def test_a_traceback_stays_inside_its_line(written) -> None:
    stream = written()
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        log.exception("failed")
    (line,) = lines(stream)
    assert "ValueError: broken" in line["error"]


HOSTILE = "mill\n2026-01-01 00:00:00,000 INFO forged\r\x1b[2J\x9b\u2028 \udc80 é"


@pytest.mark.parametrize("format", logs.FORMATS)
def test_no_value_breaks_a_line_or_reaches_the_terminal(written, format) -> None:
    stream = written(prompts=True, format=format)
    logs.prompt(log, HOSTILE)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable() and "é" in line
    if format == "json":
        assert json.loads(line)["message"] == f"prompt: {HOSTILE}"


def test_no_line_of_a_traceback_looks_like_one_of_the_log(written) -> None:
    stream = written(format="text")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("failed") and others and all(line.startswith("    ") for line in others)
    assert all(line.isprintable() for line in others)


def test_all_other_output_is_json_when_the_log_is(written) -> None:
    stream = written()
    say("open http://127.0.0.1:8000")
    fail("no permission to listen")
    with warnings.catch_warnings(action="always"):
        warnings.warn("this will change", FutureWarning, stacklevel=1)
    assert [line["level"] for line in lines(stream)] == ["info", "error", "warning"]


CRASHES = {
    "an exception": "raise ValueError('no\\nway')",
    "an exception in a thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "an exception nobody can catch": "type('Odd', (), {'__del__': lambda self: 1 / 0})()",
    "an exception of a task": "import asyncio\nasync def f(): asyncio.ensure_future(g()); await asyncio.sleep(0.01)\n"
    "async def g(): 1 / 0\nasyncio.run(f())",
    "a warning": "import warnings; warnings.warn('old', DeprecationWarning)",
    "a line that cannot be made": "import logging; logging.getLogger().error('%d', 'x')",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_process_says_nothing_but_json_also_when_it_crashes(crash) -> None:
    code = f"from server.telemetry import logs\nlogs.configure('info', 'json')\n{CRASHES[crash]}"
    root = str(Path(__file__).resolve().parents[3])
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True
    )
    said = [json.loads(line) for line in run.stderr.splitlines()]
    assert said or crash == "a line that cannot be made"
    assert all({"time", "level", "process", "message"} <= set(line) for line in said)


def test_a_start_that_fails_says_so_in_json(tmp_path) -> None:
    file = tmp_path / "pafu.toml"
    file.write_text("log_format = 'json'\n")
    root = str(Path(__file__).resolve().parents[3])
    for arguments, variables in (
        (["--log-format", "json"], {}),
        ([], {"PAFU_LOG_FORMAT": "json"}),
        (["--config", str(file)], {}),
    ):
        environ = {**os.environ, "PYTHONPATH": root, "PAFU_SIZE": "0x0", **variables}
        command = [sys.executable, "-m", "server.cli", "serve", *arguments]
        run = subprocess.run(command, env=environ, capture_output=True)
        (line,) = [json.loads(line) for line in run.stderr.splitlines()]
        assert run.returncode == 2 and line["level"] == "error" and "PAFU_SIZE" in line["message"]


COMMANDS = (
    "keys add alice",
    "keys list --keys-file nothing.toml",
    "keys remove alice --keys-file nothing.toml",
    "generate '' -o x.mp4",
    "generate 'a red huose' --seconds 0.1 --model test-tiny -o x.mp4",
    "watch a --url http://127.0.0.1:1",
    "drain 7 --url http://127.0.0.1:1",
    "pull nothing",
    "convert nothing.pt",
    "demo nothing",
    "bench --url http://127.0.0.1:1",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_everything_in_json_where_the_log_is(tmp_path, command) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "PAFU_LOG_FORMAT": "json"}
    whole = [sys.executable, "-m", "server.cli", *shlex.split(command)]
    run = subprocess.run(whole, env=environ, cwd=tmp_path, capture_output=True, timeout=60)
    said = [json.loads(line) for line in run.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in said)
    assert said[-1]["level"] == ("error" if run.returncode else "info")


async def test_a_worker_s_plain_lines_become_json(capfd) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b'{"message": "ours"}\nFatal Python ')
    reader.feed_data(b"error: Segmentation fault\n\n  File x.py\nand no end")
    reader.feed_eof()
    assert await WorkerStderr(reader, in_json=True).line(within=10) == "and no end"
    said = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    assert said == ["ours", "Fatal Python error: Segmentation fault", "File x.py", "and no end"]


async def test_the_last_line_is_known_before_a_child_of_the_worker_closes_the_pipe(capfd) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"why\n")
    stderr = WorkerStderr(reader, in_json=False)
    assert [await stderr.line(within=0.01) for _ in range(2)] == ["why", "why"]
    reader.feed_data(b"more\n")
    reader.feed_eof()
    assert await stderr.line(within=10) == "more" and capfd.readouterr().err == "why\nmore\n"


def test_readable_lines_name_the_session_once(written) -> None:
    stream = written(format="text")
    with logs.about(session_id="sess_1"):
        log.info("sess_1: streaming")
        log.info("the model exploded")
    first, second = stream.getvalue().splitlines()
    assert first.count("sess_1") == 1 and second.endswith("the model exploded [sess_1]")


async def test_two_tasks_do_not_mix_their_ids(written) -> None:
    stream = written()

    async def one(name: str) -> None:
        with logs.about(session_id=name):
            await asyncio.sleep(0)
            log.info("from %s", name)

    await asyncio.gather(one("a"), one("b"))
    assert all(line["message"] == f"from {line['session_id']}" for line in lines(stream))


@pytest.mark.parametrize("asked", [False, True])
def test_prompts_are_logged_only_when_asked_for(written, asked) -> None:
    stream = written(prompts=asked)
    logs.prompt(log, "a secret garden")
    assert ("a secret garden" in stream.getvalue()) == asked


async def test_a_session_of_a_server_logs_its_ids_and_not_its_prompt(written, server) -> None:
    stream = written()
    await server.watch(num_frames=13, prompt="a very private wish")
    about = [line for line in lines(stream) if line["logger"] == "pafu.session"]
    assert about and all(line["session_id"].startswith("sess_") and line["request_id"] for line in about)
    assert "private wish" not in stream.getvalue()


async def test_the_worker_s_lines_name_the_session_and_the_request_that_they_are_about(serve, viewer_of, capfd) -> None:
    server = await serve(log_format="json")
    async with server.connect(additional_headers={"x-request-id": "req_mine"}) as socket:
        viewer = viewer_of(socket)
        session = (await viewer.start(prompt="explode"))["session_id"]
        await viewer.closed()
    await server.empties()
    failed: list[dict[str, str]] = []
    while not failed:  # its stderr comes through a pipe of its own, after its messages
        said = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
        failed = [line for line in said if line["process"] == "worker" and line["level"] == "error"]
        await asyncio.sleep(0.01)
    (line,) = failed
    assert (line["session_id"], line["request_id"]) == (session, "req_mine")
    assert "Traceback" in line["error"]


async def test_resuming_or_watching_logs_under_the_session_s_id(written, serve, viewer_of) -> None:
    server, stream = await serve(keep_on_device=60), written()
    async with server.connect() as first, server.connect() as second:
        began = await viewer_of(first).start(num_frames=10_000)
        await viewer_of(first).until("video.chunk_metadata")
        await viewer_of(second).send({"type": "session.watch", "session_id": began["session_id"]})
        await viewer_of(second).until("video.start")
    async with server.connect(additional_headers={"x-request-id": "req_again"}) as third:
        await viewer_of(third).send(server.coming_back(began))
        await viewer_of(third).until("video.start")
        await viewer_of(third).send({"type": "session.stop"})
        await viewer_of(third).closed()
    await server.empties()
    seen = [line for line in lines(stream) if line["logger"] in ("pafu.session", "pafu.live")]
    assert {line["session_id"] for line in seen} == {began["session_id"]}
    assert "req_again" in {line["request_id"] for line in seen}


def test_a_flood_of_one_line_is_written_once_an_interval_with_its_count(written, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("server.telemetry.repeats.time", SimpleNamespace(monotonic=lambda: now[0]))
    stream, stranger = written(), logging.getLogger("uvicorn.error")
    for _ in range(5000):
        stranger.warning("Unsupported upgrade request.")
        log.info("%s: the message is not valid", object())
        logging.getLogger("pafu.access").info("%s", "GET /")
    stranger.error("another kind")
    now[0] = repeats.SECONDS
    stranger.warning("Unsupported upgrade request.")
    said = [line["message"] for line in lines(stream)]
    floods = [text for text in said if text.startswith("Unsupported upgrade")]
    assert floods == ["Unsupported upgrade request.", f"{floods[0]} (and 4999 times before, not logged)"]
    assert sum("is not valid" in text for text in said) == repeats.MOST
    assert said.count("GET /") == 5000 and "another kind" in said


async def test_prompts_of_starts_changes_and_jobs_are_logged_if_asked_for(
    server, viewer_of, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(logs, "_prompts", True)
    caplog.set_level(logging.INFO)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="a first one")
        change = {"event": {"prompt": "a second one"}}
        await viewer.send({"type": "session.interaction", "interaction": change})
        await viewer.until("session.interaction.queued")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        assert (await client.post("/v1/videos", json={"prompt": "a third one"})).status_code == 200
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("prompt: ")]
    assert told == ["prompt: a first one", "prompt: a second one", "prompt: a third one"]
