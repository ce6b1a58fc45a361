"""Markers for all tests, and the real Prometheus for tests of metrics."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

# any machine is slow at times
hypothesis.settings.register_profile("pafu", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("pafu")
ROOT = Path(__file__).resolve().parents[1]
# `quick` tests use none of these fixtures (a server, a worker, another program) and stand in none of the slow places
# (a model is trained or loaded, another program is run). `serial` ones watch a page play in a browser, which draws
# without a GPU: two at once take each other's cores.
SERVED = {
    *("serve", "server", "live_server", "own_server", "server_process", "killable", "start_local", "url"),
    *("postgres", "prometheus", "promtool", "helm"),
}
SLOW = (
    "tests/compat/",
    "tests/e2e/",
    "tests/model/",
    *(f"tests/server/bench/test_{name}.py" for name in ("against", "bench")),
    *(
        f"tests/server/cli/test_{name}.py"
        for name in (
            "bad_weights",
            "cli",
            "doctor",
            "drain",
            "endings",
            "output",
            "refused_starts",
            "research_commands",
            "revisit",
        )
    ),
    *(f"tests/server/engine/test_{name}.py" for name in ("capacity", "cluster", "conformance", "devices", "groups")),
    "tests/server/failures/",
    "tests/server/telemetry/test_logs.py",
)
# `make test` leaves these to `make proofs`: clusters, groups, what is killed, installed wheels, further browser tests
PROOFS = (
    *(f"tests/e2e/test_{name}.py" for name in ("contrast", "firefox", "installed", "js_client", "proxies", "restart")),
    *(f"tests/e2e/test_{name}.py" for name in ("scenes", "taking_along", "wan_in_browser", "worker_death")),
    "tests/model/group/",
    "tests/server/bench/test_against.py",
    *(f"tests/server/engine/test_{name}.py" for name in ("cluster", "groups")),
    "tests/server/failures/",
    "tests/server/jobs/test_endurance.py",
)
BROWSER = {"Firefox", "async_playwright", "chromium", "Visit", "visit"}  # names in a test file that has to do with one
PATIENCE = 300.0  # a test that waits longer hangs; nothing is measured with it
ASK_SECONDS = 0.5


class Prometheus:
    """A running server that scrapes one target, with an operator's queries."""

    def __init__(self, folder: Path, target: str, program: str, rules: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        scrape = {"job_name": "pafu", "static_configs": [{"targets": [target]}]}
        interval = {"scrape_interval": "3s", "scrape_timeout": "3s"}  # which a busy machine can keep
        config = folder / "prometheus.yml"
        whole = {"global": interval, "scrape_configs": [scrape], "rule_files": [rules] if rules else []}
        config.write_text(json.dumps(whole))  # JSON is YAML
        self.log = folder / "log"
        command = [program, f"--config.file={config}", f"--web.listen-address={self.address}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'data'}"], stderr=log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    async def get(self, path: str, **params: str) -> Any:
        """The data of a reply of Prometheus's API, or None while it is starting."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                reply = await client.get(f"http://{self.address}/api/v1/{path}", params=params)
            except httpx.TransportError:
                return None
        if reply.status_code == 503:
            return None
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]

    async def values(self, query: str) -> list[float]:
        """The values of all series of a PromQL query."""
        data = await self.get("query", query=query)
        return [float(series["value"][1]) for series in data["result"]] if data else []

    async def ask(self, query: str) -> float | None:
        """The sum of a PromQL query's values, or None without series."""
        values = await self.values(query)
        return sum(values) if values else None

    async def until(self, query: str, holds: Callable[[float], bool]) -> float:
        """The first answer for which ``holds`` is true."""
        give_up, answer = time.monotonic() + PATIENCE, None
        while time.monotonic() < give_up:
            answer = await self.ask(query)
            if answer is not None and holds(answer):
                return answer
            await asyncio.sleep(ASK_SECONDS)
        raise AssertionError(f"{query} is {answer}; Prometheus says: {self.log.read_text()[-500:]}")

    async def sees(self, query: str, value: float) -> None:
        """Wait until Prometheus has this value; a failed scrape on a busy machine does not matter."""
        await self.until(query, lambda answer: answer == value)


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the jobs and sessions of test servers apart from the user's own."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start Prometheus on a target (host:port). Skipped if Debian's package is missing, unless it is required."""
    program = shutil.which("prometheus")
    if program is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_PROMETHEUS") == "1" else pytest.skip
        no("no prometheus program; apt-get install prometheus")
    running: list[Prometheus] = []

    def start(target: str, rules: str = "") -> Prometheus:
        """``rules``: a glob pattern of rule files."""
        running.append(Prometheus(tmp_path, target, program, rules))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files that `-m quick` would skip by their folder; importing takes longer than some tests."""
    if config.option.markexpr != "quick" or not collection_path.is_relative_to(ROOT):
        return None
    path = collection_path.relative_to(ROOT).as_posix() + "/" * collection_path.is_dir()
    return path.startswith(SLOW) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its folder and its fixtures; see the top of this file."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        if BROWSER & vars(getattr(item, "module", item)).keys():
            item.add_marker(pytest.mark.serial)
        if path.startswith(PROOFS):
            item.add_marker(pytest.mark.proof)
        if not path.startswith(SLOW) and not SERVED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(autouse=True)
def gradients_on() -> Iterator[None]:
    """A command that ran in this process may have turned gradients off, but the next test may train."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)
