"""Promise: ``pafu drain`` takes a worker out of a running server and back, or says in one line why it cannot."""

from __future__ import annotations

import asyncio
import hmac
import os
import stat
import sys

import pytest

from server.access.operator import Operator
from server.process import module_command

TWO = {"device": "cpu:2", "threads": 2}


async def drain(*arguments: str, **settings) -> tuple[int | None, str]:
    """Exit status, and what the command said."""
    environ = {"PATH": os.environ["PATH"], "COLUMNS": "300", "PYTHONPATH": os.pathsep.join(sys.path)}
    environ |= {f"PAFU_{name.upper()}": str(value) for name, value in settings.items()}
    pipe = asyncio.subprocess.PIPE
    command = (*module_command("server.cli"), "drain", *arguments)
    process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=pipe, stdout=pipe)
    out, said = await process.communicate()
    return process.returncode, (out + said).decode()


async def test_a_worker_is_drained_and_taken_back(serve, tmp_path) -> None:
    server = await serve(**TWO)
    while any(worker.state.value != "ready" for worker in server.engine.status().workers):
        await server.engine.room_changed(0.1)
    status, said = await drain("0", "--wait", "--url", server.url, data_dir=tmp_path)
    assert status == 0 and "worker 0 (cpu) is drained" in said
    assert server.engine.status().workers[0].pid is None
    status, said = await drain("1", port=server.port, data_dir=tmp_path)
    assert status == 1 and "worker 1 is the only one serving; stop the server instead" in said
    status, said = await drain("0", "--undo", "--url", server.url, data_dir=tmp_path)
    assert status == 0 and "worker 0 (cpu) is starting" in said


async def test_without_the_secret_or_a_server_it_is_one_line(tmp_path) -> None:
    status, said = await drain("0", data_dir=tmp_path)
    assert (status, len(said.strip().splitlines())) == (1, 1) and "admin.token cannot be read" in said
    Operator(tmp_path).prepare()
    status, said = await drain("0", "--url", "http://127.0.0.1:9", data_dir=tmp_path)
    assert (status, len(said.strip().splitlines())) == (1, 1) and "no answer from a Pafu server" in said


@pytest.mark.parametrize("text", ["", "short", "\u00e4" * 40])
def test_a_file_that_holds_no_secret_opens_nothing(tmp_path, text: str) -> None:
    operator = Operator(tmp_path)
    operator.path.write_text(text)
    assert operator.read() is None and not operator.known_by(text)


def test_a_secret_is_made_once_for_its_owner_and_a_new_one_counts_at_once(tmp_path, monkeypatch) -> None:
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    operator = Operator(tmp_path)
    operator.prepare()
    assert stat.S_IMODE(operator.path.stat().st_mode) == 0o600
    secret = operator.read()
    operator.prepare()
    assert operator.read() == secret and operator.known_by(secret) and not operator.known_by(secret + "x")
    operator.path.write_text("another-secret-of-24-chars")
    assert not operator.known_by(secret)
    assert len(compared) == 3, "in constant time"
