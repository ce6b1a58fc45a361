"""Promise: a log line can be read by people or machines, names its session and request, and tells no prompt unasked."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest

from server import logs

log = logging.getLogger("pafu.test")


@pytest.fixture
def written(monkeypatch):
    """Configure and read back what was written; the test's own logging is put back behind it."""
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
