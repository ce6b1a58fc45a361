"""Promise: viewers learn that their worker was killed, and it is replaced; a server that is told to stop shuts down
cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from pathlib import Path

import httpx
import pytest
from pafu_client import SessionInterrupted, connect

from server.bench.launch import get_json
from server.http.service import SAME_STOP


async def test_kill_9_of_the_worker_is_a_gap_in_a_session_that_goes_on(own_server) -> None:
    url = own_server.url()
    victim = get_json(f"{url}/health")[1]["workers"][0]["pid"]
    async with connect(url, prompt="a red house") as stream:
        await stream.receive()
        os.kill(victim, signal.SIGKILL)
        indices = []
        async for chunk in stream:
            indices.append(chunk.metadata.index)
            if len(indices) == 4:
                await stream.stop()
    assert indices == list(range(1, len(indices) + 1)), "a chunk is missing or was sent twice"
    async with connect(url, prompt="a red house", num_frames=24) as stream:
        assert sum([chunk.metadata.num_frames async for chunk in stream]) == 24
    health = get_json(f"{url}/health")[1]
    assert health["workers"][0]["restarts"] == 1 and health["workers"][0]["pid"] != victim


def front_alone(front: int, worker: int, name: signal.Signals) -> None:
    os.kill(front, name)


def whole_group(front: int, worker: int, name: signal.Signals) -> None:
    """Signal the process group, as a shell does."""
    os.killpg(front, name)


def all_of_the_service(front: int, worker: int, name: signal.Signals) -> None:
    """Signal all processes, as systemd does; the worker first."""
    os.kill(worker, name)
    time.sleep(0.1)
    os.kill(front, name)


def at_once(front: int, worker: int, name: signal.Signals) -> None:
    """Signal the group, then the front again with SIGHUP, as systemd, container runtimes and closing terminals do."""
    for again in (name, signal.SIGHUP, signal.SIGCONT):
        os.killpg(front, again)
    os.kill(front, name)


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (all_of_the_service, signal.SIGTERM),
        (whole_group, signal.SIGTERM),
        (front_alone, signal.SIGHUP),
        (at_once, signal.SIGTERM),
    ],
)
async def test_a_signal_ends_the_session_in_order_and_leaves_no_process(own_server, end, name, tmp_path) -> None:
    url = own_server.url()
    worker = get_json(f"{url}/health")[1]["workers"][0]["pid"]
    async with httpx.AsyncClient(trust_env=False) as http:
        job = (await http.post(f"{url}/v1/videos", json={"prompt": "a red house", "seconds": "600"})).json()
    async with connect(url, prompt="a red house", resume_within=0) as stream:
        await stream.receive()
        end(own_server.process.pid, worker, name)
        async for _ in stream:
            pass
        assert stream.done is not None and (stream.done.reason, stream.done.resumable) == ("server_shutdown", True)
        assert not [event for event in stream.events if isinstance(event, SessionInterrupted)]
    assert own_server.process.wait(60) == 0
    assert not alive(worker)
    with sqlite3.connect(next(tmp_path.glob("**/jobs.sqlite"))) as database:
        query = "SELECT state, failures FROM pafu_jobs WHERE id = ?"
        assert database.execute(query, (job["id"],)).fetchone() == ("queued", 0)


async def test_a_second_signal_ends_it_at_once_and_leaves_no_process_either(own_server) -> None:
    url = own_server.url()
    worker = get_json(f"{url}/health")[1]["workers"][0]["pid"]
    async with connect(url, prompt="a red house") as stream:
        await stream.receive()
        os.kill(own_server.process.pid, signal.SIGTERM)
        await asyncio.sleep(2 * SAME_STOP)
        os.kill(own_server.process.pid, signal.SIGTERM)
        assert await asyncio.to_thread(own_server.process.wait, 60) == 0
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_kill_9_of_the_front_takes_the_worker_with_it(own_server) -> None:
    worker = get_json(f"{own_server.url()}/health")[1]["workers"][0]["pid"]
    own_server.process.kill()
    own_server.process.wait()
    give_up = time.monotonic() + 60
    while alive(worker) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not alive(worker)
