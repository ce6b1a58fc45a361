"""Promise: several devices serve as one worker; if one of their processes ends or hangs, the sessions go on as after
any worker's death, and no process is left over."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cache.config import row_bytes
from model.spec import TEST_TINY, WAN_14B
from server.config import ConfigError, Settings, load_settings
from server.engine.admission import cache_bytes, check_room
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.engine.supervisor import WORKER_COMMAND
from server.ipc.messages import CacheChoice
from server.states import EngineState
from tests.server.engine.engines import PATIENCE, ROOT

GROUP = {"command": WORKER_COMMAND, "device": "cpu+cpu", "threads": 2, "worker_timeout": 6.0, "keep_on_disk": 60.0}
WISH = {"prompt": "a red house", "seed": 5}
CACHE = CacheChoice(policy="window", budget_latents=18, sink_latents=0, recent_latents=3)


def other_process(server) -> int:
    """The worker's only child."""
    pid = server.engine.status().workers[0].pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ends(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while runs(pid):
            await asyncio.sleep(0.01)


async def after_chunks(viewer, count: int) -> None:
    for _ in range(count):
        await viewer.until("video.chunk_metadata")


def same_film(one, two) -> bool:
    """Whether all pictures are equal up to the differences of a fresh encoder: 1.6 in the first of pafu-mini's sharp
    pictures. The next picture of a pan differs by 6."""
    pair = (one.pictures().astype(int), two.pictures().astype(int))
    return pair[0].shape == pair[1].shape and np.abs(pair[0] - pair[1]).mean(axis=(1, 2, 3)).max() < 2.5


async def test_a_session_goes_on_when_a_process_of_its_group_is_killed_or_hangs(serve, viewer_of) -> None:
    server = await serve(**GROUP)
    undisturbed = await server.watch(num_frames=108, **WISH)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(num_frames=108, **WISH)
        for fault, said in (
            (signal.SIGKILL, "process 1 (cpu) of the group cpu+cpu ended (SIGKILL)"),
            (signal.SIGSTOP, ""),
        ):
            await after_chunks(viewer, 2)
            victim = other_process(server)
            os.kill(victim, fault)
            reason = (await viewer.until("session.interrupted"))["reason"]
            assert "exit status 70" in reason and said in reason
            await ends(victim)
        assert (await viewer.until("session.done"))["reason"] == "complete"
    indices = [said["transport_chunk_index"] for said in viewer.messages if said["type"] == "video.chunk_metadata"]
    assert indices == list(range(9)) and same_film(viewer, undisturbed)
    other = other_process(server)
    os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
    await ends(other)


async def test_a_parked_session_of_a_group_comes_back_with_its_prompt_and_camera(serve, viewer_of) -> None:
    server = await serve(**GROUP)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        began = await viewer.start(num_frames=60, **WISH)
        await after_chunks(viewer, 2)
        event = {"prompt": "a blue tower at night", "multi_modal_data": {"camera": {"speed": 4}}}
        await viewer.send({"type": "session.interaction", "interaction": {"event": event}})
        await viewer.until("video.chunk_metadata")
        socket.transport.abort()
    async with asyncio.timeout(PATIENCE):
        while [session.status.value for session in server.front.sessions] != ["parked"]:
            await asyncio.sleep(0.01)
    async with server.connect() as socket:
        again = viewer_of(socket)
        await again.send(server.coming_back(began))
        assert (await again.until("session.done"))["reason"] == "complete"
    health = server.engine.status().workers[0]
    assert (health.device, health.restarts) == ("cpu+cpu", 0)
    assert not [said for said in (*viewer.messages, *again.messages) if said["type"] == "error"]


async def test_a_cache_that_the_group_cannot_divide_ends_the_start(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = load_settings({"model": "test-tiny", "device": "cpu+cpu", "kv_dtype": "int8"}, {})
    engine = LocalEngine(settings, slots_for(settings))
    await engine.start()
    async with asyncio.timeout(PATIENCE):
        await engine.settled()
    said = "--kv-dtype: kv_dtype 'int8' rounds 64 neighboring numbers together, and each of 2 devices has 24 numbers"
    assert engine.state is EngineState.FAILED and said in engine.status().message
    await engine.stop(0.0)


# ---- before anything starts


@pytest.mark.parametrize(
    ("device", "model", "said"),
    [
        ("cpu+cpu+cpu", "test-tiny", "has 2 attention heads, which 3 devices cannot share; groups of 2 can"),
        ("cpu,cpu+cpu+cpu+cpu+cpu", "test-wan", "has 4 attention heads, which 5 devices cannot share"),
    ],
)
def test_a_model_that_the_group_cannot_share_ends_the_start(device: str, model: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        slots_for(Settings(device=device, model=model))


def test_memory_is_counted_by_the_device_that_holds_most() -> None:
    rows = 2 * row_bytes(WAN_14B.dim, "bfloat16") * WAN_14B.num_layers * 18 * WAN_14B.tokens_per_latent
    alone, shared = (cache_bytes(WAN_14B, CACHE, "bfloat16", ("cuda",) * devices) for devices in (1, 4))
    assert alone - shared == rows * 3 / 4
    room = cache_bytes(TEST_TINY, CacheChoice.of(Settings(model="test-tiny").cache()), "bfloat16", ("cpu",) * 2)
    settings = Settings(model="test-tiny", device="cpu+cpu", cache_room_bytes=room)
    check_room(settings, slots_for(settings))
    with pytest.raises(ConfigError, match=f"set at least {room}"):
        less = Settings(model="test-tiny", device="cpu+cpu", cache_room_bytes=room - 1)
        check_room(less, slots_for(less))
