"""A front in a separate process, which a test may kill, over the test pattern."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
PATIENCE = 120.0
SERVE = """
import asyncio, json, sys
from server.config import Settings
from server.http.listener import listen
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.http.service import build

settings, port, pattern = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
settings = Settings(model="test-tiny", gallery=False, **settings)
service = build(settings, LocalEngine(settings, slots_for(settings), (sys.executable, pattern)))
asyncio.run(service.serve(sockets=[listen("127.0.0.1", port)]))
"""


class Killable:
    """A front with the same address and data, however often it is started."""

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        given = json.dumps(settings, default=str)
        self._command = [sys.executable, "-c", SERVE, given, str(self.port), str(PATTERN)]
        self.http = httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=PATIENCE)
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(self._command, env=environ, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The reply, as soon as there is one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.http.request(method, path, **options)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    async def until(self, path: str, holds: Callable[[Any], Any]) -> Any:
        """The first reply for which this is true."""
        async with asyncio.timeout(PATIENCE):
            while not holds(answer := (await self.ask("GET", path)).json()):
                await asyncio.sleep(0.02)
        return answer


@pytest.fixture
async def killable(tmp_path: Path) -> AsyncIterator[Callable[..., Killable]]:
    """Start such a front with these settings."""
    running: list[Killable] = []

    def start(**settings: Any) -> Killable:
        running.append(Killable({"data_dir": tmp_path, **settings}, tmp_path / f"log-{len(running)}"))
        return running[-1]

    yield start
    for server in running:
        await server.http.aclose()
        server.kill()
