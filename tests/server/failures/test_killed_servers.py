"""Promise: kill -9 of server or worker in the middle of a job loses nothing and does nothing twice.

At moments that are waited for; tests/soak/kill_jobs.py does it hundreds of times at random ones.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import av
import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
PATIENCE = 120.0
CHUNKS = 9
SERVE = """
import asyncio, sys
from pathlib import Path
from server.config import Settings
from server.listener import listen
from server.local_engine import LocalEngine
from server.service import build

data_dir, port, pattern = sys.argv[1:]
settings = Settings(model="test-tiny", data_dir=Path(data_dir), job_lease_seconds=2.0)
service = build(settings, LocalEngine(settings, (sys.executable, pattern)))
asyncio.run(service.serve(sockets=[listen("127.0.0.1", int(port))]))
"""


class Server:
    """A front in a process of its own, with a pattern for a model."""

    def __init__(self, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [sys.executable, "-c", SERVE, str(data_dir), str(self.port), str(PATTERN)]
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=PATIENCE)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def ask(self, method: str, path: str, **options) -> httpx.Response:
        """The answer, as soon as somebody gives one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.http.request(method, path, **options)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    async def until(self, path: str, holds) -> dict:
        async with asyncio.timeout(PATIENCE):
            while not holds(answer := (await self.ask("GET", path)).json()):
                await asyncio.sleep(0.02)
        return answer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    yield server
    await server.http.aclose()
    server.kill()


async def test_a_job_survives_its_servers_and_their_workers(server, tmp_path) -> None:
    order = {"prompt": "sleep", "num_frames": 12 * CHUNKS, "seed": 1}
    made = (await server.ask("POST", "/v1/videos", json=order)).json()
    path, progress = f"/v1/videos/{made['id']}", 0
    for victim in ("server", "worker", "server"):
        progress = (await server.until(path, lambda video: video["progress"] > progress))["progress"]  # noqa: B023
        if victim == "worker":
            health = await server.until("/health", lambda health: health["worker"]["pid"])
            os.kill(health["worker"]["pid"], signal.SIGKILL)
        else:
            server.kill()
            server.start()
    assert (await server.until(path, lambda video: video["status"] in ("completed", "failed")))["status"] == "completed"
    folder = tmp_path / "videos" / made["id"]
    parts = sorted(file.stem.split("-") for file in folder.glob("*.m4s"))
    assert [int(number) for number, _ in parts] == list(range(CHUNKS)), "a chunk was made twice, or never"
    assert len({fence for _, fence in parts}) == 4, "each who went on left chunks under his own claim"
    assert len(list(folder.glob("*video.mp4"))) == 1 and not list(folder.glob("*.part"))
    film = (await server.ask("GET", f"{path}/content")).content
    with av.open(io.BytesIO(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12 * CHUNKS
