"""Promise: viewers who come and leave at any moment leave nothing behind and do not disturb those who stay."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import random
import sys
import time
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[2] / "soak" / "churn.py"
_SPEC = importlib.util.spec_from_file_location("churn", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
churn = importlib.util.module_from_spec(_SPEC)
sys.modules["churn"] = churn
_SPEC.loader.exec_module(churn)

VISITS = range(4 * len(churn.VISITS))
KEEP = {"keep_on_device": 0.2, "keep_on_disk": 0.2}


def held(tmp_path: Path) -> dict[str, list[str]]:
    """Everything that a visit could leave in this process or on disk, except the job database, which opens on first
    use."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return {
        "tasks": [task.get_name() for task in asyncio.all_tasks()],
        "files": [path.name for path in (tmp_path / "sessions").rglob("*") if path.is_file()],
        "open files": [link for link in links if "jobs.sqlite" not in link],
    }


async def settles(tmp_path: Path, before: dict[str, list[str]]) -> None:
    """Wait until no more is held than before."""
    give_up = time.monotonic() + churn.PATIENCE
    while True:
        after = held(tmp_path)
        if all(len(after[name]) <= len(before[name]) for name in after):
            return
        assert time.monotonic() < give_up, f"left behind: {after}, before: {before}"
        await asyncio.sleep(0.05)


async def test_visitors_leave_nothing_behind_and_do_not_affect_viewers_who_stay(serve, tmp_path, caplog) -> None:
    server = await serve(max_sessions=3, max_waiting=100, max_lead_seconds=1000, **KEEP)
    await server.works()
    before = held(tmp_path)
    stayer = churn.Stayer(server.url, seed=1)
    seen = await churn.churn(server.port, VISITS, 1, await stayer.began(), at_once=6)
    hashes = await stayer.leave()
    assert seen == {visit.__name__: 4 for visit in churn.VISITS}
    await server.empties()
    assert server.engine.status().cache_held_bytes == 0 and server.front.sessions.waiting_room.depth == 0
    assert server.engine.status().workers[0].restarts == 0
    await settles(tmp_path, before)
    assert hashes and hashes == await churn.alone(server.url, 1, len(hashes), 12)
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_churn_sees_a_server_that_fails(serve) -> None:
    server = await serve(**KEEP)
    with pytest.raises(churn.Finding, match="generation_failed"):
        async with churn.visiting(server.port, random.Random(1), "sess_0") as visitor:
            await visitor.start(prompt="explode")  # at the third chunk
            await visitor.until("session.done")
