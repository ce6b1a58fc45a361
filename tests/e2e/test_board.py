"""Promise: on a streaming server, every dashboard panel and every rule has data."""

from __future__ import annotations

import asyncio
import importlib
import math
import re
import sys
import time
from pathlib import Path

import httpx
import pytest
from pafu_client import connect
from pafu_client.errors import PafuError

from server.bench.launch import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = "pafu_device_memory_bytes"  # the tests' machine has none
SCORED = {"cache": {"policy": "attention", "budget_latents": 6, "sink_latents": 1, "recent_latents": 3}}
PATIENCE = 600.0
MOVED = (  # by a stream that goes on; 0 would be data too
    "pafu_sessions_active",
    "pafu_sessions_limit",
    "pafu_viewers",
    "pafu_media_seconds_total",
    "pafu_kv_cache_bytes",
    "pafu_kv_cache_reserved_bytes",
    "pafu_kv_cache_limit_bytes",
    "pafu_kv_cache_tokens",
    "pafu_worker_memory_bytes",
    "pafu_worker_load_seconds",
)
COMPARISON = re.compile(r" (==|!=|>=|<=|>|<) [\d.e]+$")


@pytest.fixture
def deploy():
    """The modules of the folder deploy, which is not installed."""
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module
    sys.path.remove(str(ROOT))


@pytest.fixture
def quick_rules(tmp_path) -> str:
    """The committed rules, evaluated every second; the glob pattern of their files."""
    folder = tmp_path / "rules"
    folder.mkdir()
    for file in (ROOT / "deploy/prometheus/rules").glob("*.yml"):
        (folder / file.name).write_text(file.read_text().replace("interval: 15s", "interval: 1s"))
    return str(folder / "*.yml")


async def one_of_everything(url: str) -> None:
    """Sessions that end, are steered and watched, a refused one, a request, an error."""
    async with connect(url, prompt="a red house", num_frames=36, realtime=False, extra_params=SCORED) as stream:
        await stream.receive()
        await stream.interact(prompt="a blue house")
        async for _ in stream:
            pass
    with pytest.raises(PafuError):
        async with connect(url, prompt="a red house", width=7):
            pass
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        await client.get(f"{url}/v1/models")
        await client.get(f"{url}/v1/sessions/none")


async def keep_streaming(url: str) -> None:
    async with connect(url, prompt="a red house", extra_params=SCORED) as stream:
        async for _ in stream:
            pass


async def still_empty(watcher, queries: set[str]) -> set[str]:
    """Expressions without a number: no series, or only NaN."""
    empty = set()
    for query in queries:
        if not any(math.isfinite(value) for value in await watcher.values(query)):
            empty.add(query)
    return empty


async def test_every_panel_and_every_rule_has_data_while_a_server_streams(
    own_server: ServerProcess, prometheus, quick_rules, deploy
) -> None:
    url = own_server.url()
    watcher = prometheus(url.removeprefix("http://"), quick_rules)
    await watcher.sees("up{job='pafu'}", 1)
    await watcher.sees("pafu_sessions_finished_total", 0)
    rules = deploy("deploy.rules")
    asked = {query.replace("$__rate_interval", "1m") for query in deploy("deploy.board").queries()}
    for variable in ("$model", "$instance", "$worker"):
        asked = {query.replace(variable, ".+") for query in asked}
    asked |= {COMPARISON.sub("", alert.expr) for alert in rules.ALERTS} | {rule.name for rule in rules.RECORDINGS}
    assert not any("$" in query for query in asked)
    streaming = asyncio.create_task(keep_streaming(url))
    give_up = time.monotonic() + PATIENCE
    while asked and time.monotonic() < give_up:
        await one_of_everything(url)
        asked = await still_empty(watcher, asked)
        if all(NO_GPU in query for query in asked):
            break
    for name in MOVED:
        await watcher.until(name, lambda value: value > 0)
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    assert {query for query in asked if NO_GPU not in query} == set()
    groups = (await watcher.get("rules"))["groups"]
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []
    assert sum(len(group["rules"]) for group in groups) == len(rules.RECORDINGS) + len(rules.ALERTS)
