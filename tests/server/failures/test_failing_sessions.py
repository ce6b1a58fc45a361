"""Promise: a failing session (NaN, out of memory) ends with its code, its memory is freed, and others continue."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import httpx
import openai
import pytest
import torch

from server.ipc import messages
from server.worker import loop as worker_module
from server.worker.generator import ModelGenerator, load_model
from server.worker.loop import Worker

ROOT = Path(__file__).resolve().parents[3]
CACHE = messages.CacheChoice(policy="sink_window", budget_latents=9, sink_latents=3, recent_latents=3)
CODES = [("devour", "out_of_memory"), ("dissolve", "not_finite"), ("explode", "generation_failed")]


async def test_a_cache_that_is_full_ends_its_session_for_good(server, viewer_of, capfd) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="brim")
        error = await viewer.until("error")
        assert (error["code"], error["retryable"]) == ("cache_full", False)
        assert error["message"] == "the session's cache is full: policy 'full' never evicts"
        assert await viewer.closed() == 1008
        assert len(viewer.fragments) == 2, "what was made before is shown"
    await server.works()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("prompt", "code"), CODES)
async def test_its_viewer_is_told_the_code_and_no_other_is_affected(server, viewer_of, prompt, code) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        bystander = asyncio.create_task(server.watch(num_frames=50, seed=1))
        await viewer.start(prompt=prompt)
        error = await viewer.until("error")
        assert (error["code"], error["retryable"]) == (code, True) and prompt[:-1] in error["message"]
        assert await viewer.closed() == 1011
        assert len(viewer.fragments) == 2, "what was made before is shown"
    assert (await bystander).pictures().shape[0] == 50
    assert server.engine.status().workers[0].restarts == 0
    await server.works()
    assert server.engine.status().cache_held_bytes == 0


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
@pytest.mark.parametrize(("prompt", "code"), CODES)
async def test_a_job_fails_under_the_code_keeps_no_file_and_the_next_one_works(serve, tmp_path, prompt, code) -> None:
    server = await serve(data_dir=tmp_path)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        bystander = asyncio.create_task(server.watch(num_frames=50, seed=1))
        failed = await client.videos.create_and_poll(prompt=prompt)
        assert (failed.status, failed.error.code) == ("failed", code)
        assert (await bystander).pictures().shape[0] == 50
        made = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 3})
        assert made.status == "completed"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        async with asyncio.timeout(120):
            while (tmp_path / "videos" / failed.id).exists():  # the row first, then the files
                await asyncio.sleep(0.01)
        assert (await http.get(f"/v1/videos/{failed.id}")).json()["error"]["code"] == code


class Line:
    """The channel's other end in the same thread; a fragment counts as delivered at once."""

    def __init__(self) -> None:
        self.inbox: list[messages.FrontMessage] = []
        self.sent: list[messages.Message] = []

    def send(self, message: messages.Message) -> None:
        self.sent.append(message)
        if isinstance(message, messages.Fragment):
            self.inbox.append(messages.Delivered(session=message.session, index=message.index))

    def receive(self, wait: float) -> list[messages.FrontMessage]:
        received, self.inbox = self.inbox, []
        return received

    def of(self, session: str, kind: type) -> list:
        return [m for m in self.sent if isinstance(m, kind) and getattr(m, "session", "") == session]


@pytest.fixture(scope="module")
def real() -> ModelGenerator:
    """The small model with random weights: a real transformer, cache and decoder."""
    model, weights = load_model("test-tiny", None, "cpu")
    return ModelGenerator(model, weights, "cpu", {})


def order(session: str, **more) -> messages.Open:
    fields = {"prompt": "a red house", "seed": 1, "lead_seconds": 1e9, "pictures": 60, "cache": CACHE, **more}
    return messages.Open(session=session, **fields)


@torch.no_grad()
def test_a_real_model_that_makes_nan_fails_one_session_and_frees_its_memory(real, monkeypatch) -> None:
    monkeypatch.setattr(worker_module.log, "disabled", True)  # pytest keeps log records, and they the failed frames

    def run(poison: bool, *orders: messages.Open) -> tuple[Line, list[weakref.ref]]:
        line, held = Line(), []
        worker = Worker(line, real, beat_seconds=1e9)
        line.inbox = list(orders)
        for step in range(12):
            worker.step()
            if poison and step == 3:  # both have made two chunks
                stream = worker._sessions["bad"]._stream
                held = [weakref.ref(stream), weakref.ref(stream._cache)]
                stream._cache._store.keys.tensors[""].whole.fill_(float("nan"))
                del stream
        assert worker._sessions == {}
        return line, held

    good = order("good", seed=2)
    alone, _ = run(False, good)
    both, held = run(True, order("bad"), good)
    (ended,) = both.of("bad", messages.Ended)
    assert (ended.code, ended.reason, ended.chunks) == ("not_finite", "failed", 2)
    gc.collect()
    assert [ref() for ref in held] == [None, None], "the failed session's cache is still held"
    assert [f.data for f in both.of("good", messages.Fragment)] == [f.data for f in alone.of("good", messages.Fragment)]
    assert both.of("good", messages.Ended)[0].reason == "complete"


SHORT_OF_MEMORY = """
import resource, torch
from pathlib import Path
from test_failing_sessions import CACHE, Line, messages, order
from server.worker.generator import ModelGenerator, load_model
from server.worker.loop import Worker

torch.set_num_threads(1)
torch.set_grad_enabled(False)
model, weights = load_model("test-tiny", None, "cpu")
line = Line()
worker = Worker(line, ModelGenerator(model, weights, "cpu", {}), beat_seconds=1e9)
line.inbox = [order("good"), order("bad", seed=2)]
for _ in range(2):
    worker.step()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 256 * 2**20, resource.RLIM_INFINITY))
huge = messages.CacheChoice(policy="window", budget_latents=3e6, sink_latents=0, recent_latents=3)
line.inbox.append(order("huge", cache=huge))  # no room for its cache
decode = worker._sessions["bad"]._stream._decode
worker._sessions["bad"]._stream._decode = lambda *given: (torch.zeros(2**40), decode(*given))[1]  # or for its work
for _ in range(12):
    worker.step()
for name in ("good", "bad", "huge"):
    (ended,) = line.of(name, messages.Ended)
    print(name, ended.reason, ended.code, ended.chunks)
"""


def test_an_allocation_that_really_fails_ends_one_session_with_out_of_memory() -> None:
    """A real kernel limit in a separate process; only the size of one session's request is patched."""
    path = f"{ROOT}:{Path(__file__).parent}"
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert run.stdout.decode().splitlines() == [
        "good complete None 5",
        "bad failed out_of_memory 1",
        "huge failed out_of_memory 0",
    ], run.stderr.decode()[-2000:]
