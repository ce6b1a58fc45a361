"""Promise: Prometheus, scraping a real server, sees what viewers received, what the cache evicted and which worker
died."""

from __future__ import annotations

import os
import signal
import subprocess

import httpx
from pafu_client import PafuError, connect

from server.bench.launch import get_json

SMALL = {"cache": {"policy": "window", "budget_latents": 3, "recent_latents": 3}}


async def test_streams_evictions_and_a_killed_worker_move_their_metrics(own_server, prometheus) -> None:
    url = own_server.url()
    watcher = prometheus(url.removeprefix("http://"))
    await watcher.sees("pafu_engine_state{state='ready'}", 1)
    await watcher.sees("pafu_kv_evicted_tokens_total", 0)
    async with connect(url, prompt="a red house", num_frames=60, realtime=False, extra_params=SMALL) as stream:
        chunks = [chunk async for chunk in stream]
    await watcher.sees("pafu_sessions_finished_total{reason='complete'}", 1)
    await watcher.sees("pafu_sessions_started_total", 1)
    await watcher.sees("pafu_pictures_total", 60)
    await watcher.sees("pafu_time_to_first_chunk_seconds_count", 1)
    await watcher.sees("pafu_inter_chunk_seconds_count", len(chunks) - 1)
    await watcher.sees("pafu_sent_bytes_total", sum(len(chunk.data) for chunk in chunks))
    for stage in ("text", "denoise", "clean", "decode", "prune", "encode", "send", "total"):
        await watcher.sees(f"pafu_chunk_seconds_count{{stage='{stage}'}}", len(chunks))
    evicted = sum(chunk.metadata.stats["evicted_tokens"] for chunk in chunks)
    await watcher.sees("pafu_kv_evicted_tokens_total{reason='budget',policy='window'}", evicted)
    assert evicted > 0
    held = chunks[-1].metadata.stats["cache_tokens"]
    await watcher.sees("pafu_kv_evicted_tokens_total{reason='session_end'}", held)
    assert held > 0
    await a_killed_worker_is_counted(url, watcher)
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (check.returncode, check.stdout + check.stderr) == (0, ""), "promtool has something to say"


async def a_killed_worker_is_counted(url: str, watcher) -> None:
    await watcher.sees("pafu_worker_restarts_total", 0)
    async with connect(url, prompt="a red house") as stream:
        await stream.receive()
        held = (await stream.receive()).metadata.stats["cache_bytes"]
        await watcher.sees("pafu_kv_cache_bytes", held)
        assert await watcher.until("pafu_kv_cache_usage_ratio", lambda value: value > 0) <= 1
        await watcher.sees("pafu_sessions_active", 1)
        os.kill(get_json(f"{url}/health")[1]["workers"][0]["pid"], signal.SIGKILL)
        await watcher.sees("pafu_worker_restarts_total{reason='killed'}", 1)
        try:
            await stream.stop()
        except PafuError:
            pass  # told before that its worker was lost
    await watcher.sees("pafu_sessions_active", 0)
    await watcher.sees("pafu_engine_state{state='ready'}", 1)
    await watcher.sees("pafu_kv_cache_bytes", 0)
