"""The real Prometheus server, for tests of what it would see."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

PATIENCE = 30.0
SCRAPE_SECONDS = 0.5


class Prometheus:
    """A running server that scrapes one target; ask it as an operator would."""

    def __init__(self, folder: Path, target: str, program: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        scrape = {"job_name": "pafu", "static_configs": [{"targets": [target]}]}
        interval = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"global": interval, "scrape_configs": [scrape]}))  # JSON is YAML
        self.log = folder / "log"
        command = [program, f"--config.file={config}", f"--web.listen-address={self.address}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'data'}"], stderr=log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    async def ask(self, query: str) -> float | None:
        """The sum of what PromQL answers, or None for no series."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                reply = await client.get(f"http://{self.address}/api/v1/query", params={"query": f"sum({query})"})
            except httpx.TransportError:
                return None  # it still starts
        if reply.status_code == 503:
            return None
        assert reply.status_code == 200, reply.text
        result = reply.json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    async def until(self, query: str, holds: Callable[[float], bool]) -> float:
        """The first answer for which ``holds`` is true."""
        give_up, answer = time.monotonic() + PATIENCE, None
        while time.monotonic() < give_up:
            answer = await self.ask(query)
            if answer is not None and holds(answer):
                return answer
            await asyncio.sleep(SCRAPE_SECONDS)
        raise AssertionError(f"{query} is {answer}; Prometheus says: {self.log.read_text()[-500:]}")

    async def sees(self, query: str, value: float) -> None:
        """Return when Prometheus has this value; a scrape that fails on a busy machine is not the end."""
        await self.until(query, lambda answer: answer == value)


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that tests start keep their jobs and sessions apart from those of the person who runs the tests."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Start Prometheus on a target (host:port). Skipped where Debian's package is not installed, unless it must be."""
    program = shutil.which("prometheus")
    if program is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_PROMETHEUS") == "1" else pytest.skip
        no("no prometheus program; apt-get install prometheus")
    running: list[Prometheus] = []

    def start(target: str) -> Prometheus:
        running.append(Prometheus(tmp_path, target, program))
        return running[-1]

    yield start
    for server in running:
        server.stop()
