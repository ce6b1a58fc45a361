"""Kill workers and servers at random moments while they make videos, then count: none lost, none done twice.

    python tests/soak/kill_jobs.py --kills 500 --jobs 200            # the long proof
    python tests/soak/kill_jobs.py --kills 8 --jobs 4 --real-model   # with the small random model instead of a pattern

Two servers share one database and one folder. Each kill (SIGKILL) hits a random one of the four processes; a killed
server is started again. A video is *lost* when it does not become completed; *done twice* when its folder holds a
chunk or a film twice, or when its pictures are not exactly those that were ordered, in order. The exit status is 0
only when both counts are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.config import Settings
from server.listener import listen
from server.local_engine import WORKER_COMMAND, LocalEngine
from server.service import build

ROOT = Path(__file__).resolve().parents[2]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
SERVERS = 2
LEASE_SECONDS = 3.0


def serve(data_dir: str, database: str | None, port: int, real: bool) -> None:
    """One server, in a process of its own."""
    settings = Settings(
        model="test-tiny",
        data_dir=Path(data_dir),
        database=database,
        job_lease_seconds=LEASE_SECONDS,
        max_queued_jobs=100_000,
        job_max_failures=100,  # here it is never the job's fault
        threads=1,
    )
    command = WORKER_COMMAND if real else (sys.executable, str(PATTERN))
    service = build(settings, LocalEngine(settings, command))
    asyncio.run(service.serve(sockets=[listen("127.0.0.1", port)]))


@dataclass
class Server:
    """A server that is started again whenever it was killed."""

    arguments: list[str]
    port: int
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        command = [sys.executable, __file__, "--serve", str(self.port), *self.arguments]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=quiet, stderr=quiet)

    async def worker(self, http: httpx.AsyncClient) -> int | None:
        with contextlib.suppress(httpx.HTTPError):
            pid: int | None = (await http.get(f"http://127.0.0.1:{self.port}/health")).json()["worker"]["pid"]
            return pid
        return None

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()
        await self.start()


@dataclass
class Tally:
    """What was done and what came of it."""

    kills: dict[str, int] = field(default_factory=lambda: {"server": 0, "worker": 0})
    orders: dict[str, int] = field(default_factory=dict)  # id: pictures


class Soak:
    """The whole run."""

    def __init__(self, options: argparse.Namespace, data_dir: Path) -> None:
        self.options, self.data_dir = options, data_dir
        self.random = random.Random(options.seed)
        shared = ["--data-dir", str(data_dir)]
        shared += ["--database", options.database] if options.database else []
        shared += ["--real-model"] if options.real_model else []
        self.servers = [Server(shared, free_port()) for _ in range(SERVERS)]
        self.tally = Tally()
        self.http = httpx.AsyncClient(trust_env=False, timeout=30)

    async def run(self, progress: Progress) -> dict[str, Any]:
        for server in self.servers:
            await server.start()
        ordered = progress.add_task("ordered", total=self.options.jobs)
        killed = progress.add_task("killed", total=self.options.kills)
        done = progress.add_task("completed", total=self.options.jobs)
        killing = asyncio.create_task(self.kill_all(progress, killed))
        for number in range(self.options.jobs):
            pictures = self.random.randint(13, 13 + 12 * self.options.chunks)
            prompt = "sleep" if not self.options.real_model else "a red house"
            body = {"prompt": f"{prompt} {number}", "num_frames": pictures, "seed": number}
            made = await self.ask("POST", "/v1/videos", json=body, headers={"idempotency-key": str(number)})
            self.tally.orders[made["id"]] = pictures
            progress.advance(ordered)
        states = await self.watch(progress, done, killing)
        return await self.report(states)

    async def kill_all(self, progress: Progress, task: Any) -> None:
        while sum(self.tally.kills.values()) < self.options.kills:
            await asyncio.sleep(self.random.uniform(0, 2 * self.options.every))
            server, kind = self.random.choice(self.servers), self.random.choice(["server", "worker"])
            if kind == "server":
                await server.kill()
            elif pid := await server.worker(self.http):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            else:
                continue
            self.tally.kills[kind] += 1
            progress.advance(task)

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer of whichever server gives one; orders carry an idempotency key, so asking again is safe."""
        while True:
            for server in self.servers:
                with contextlib.suppress(httpx.HTTPError):
                    reply = await self.http.request(method, f"http://127.0.0.1:{server.port}{path}", **options)
                    if reply.status_code < 500:
                        reply.raise_for_status()
                        return reply.json() if "json" in reply.headers["content-type"] else reply.content
            await asyncio.sleep(0.2)

    async def watch(self, progress: Progress, task: Any, killing: asyncio.Task[None]) -> dict[str, str]:
        """States of all jobs once all are over, or once none has moved for long after the last kill."""
        last, quiet_since = "", time.monotonic()
        while True:
            videos = {name: await self.ask("GET", f"/v1/videos/{name}") for name in self.tally.orders}
            states = {name: video["status"] for name, video in videos.items()}
            progress.update(task, completed=list(states.values()).count("completed"))
            now = json.dumps([(v["status"], v["progress"]) for v in videos.values()])
            if now != last or not killing.done():
                last, quiet_since = now, time.monotonic()
            over = all(state in ("completed", "failed") for state in states.values())
            if (over and killing.done()) or time.monotonic() - quiet_since > self.options.patience:
                return states
            await asyncio.sleep(1.0)

    async def report(self, states: dict[str, str]) -> dict[str, Any]:
        twice = [name for name in states if states[name] == "completed" and not await self.once(name)]
        lost = [name for name, state in states.items() if state != "completed"]
        chunks = [(path.parent.name, path.stem.split("-")[1]) for path in self.data_dir.rglob("*.m4s")]
        claims = collections.Counter(job for job, _ in set(chunks))
        return {
            "jobs": len(states),
            "kills": self.tally.kills,
            "chunks": len(chunks),
            "jobs_resumed_with_chunks": sum(count > 1 for count in claims.values()),
            "most_claims_of_a_job": max(claims.values(), default=0),
            "lost": lost,
            "done_twice": twice,
        }

    async def once(self, name: str) -> bool:
        """Each chunk lies there once, one film, and exactly the pictures that were ordered."""
        folder = self.data_dir / "videos" / name
        numbers = sorted(int(path.stem.split("-")[0]) for path in folder.glob("*.m4s"))
        films = len(list(folder.glob("*video.mp4")))
        parts = [path for path in folder.iterdir() if path.name.endswith(".part")]
        data = await self.ask("GET", f"/v1/videos/{name}/content")
        with av.open(io.BytesIO(data)) as container:
            pictures = sum(1 for _ in container.decode(video=0))
        whole = numbers == list(range(len(numbers))) and pictures == self.tally.orders[name]
        return whole and films == 1 and not parts

    async def stop(self) -> None:
        await self.http.aclose()
        for server in self.servers:
            if server.process is not None and server.process.returncode is None:
                server.process.terminate()
                await server.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def soak(options: argparse.Namespace) -> int:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console) as progress:
        run = Soak(options, Path(folder))
        try:
            report = await run.run(progress)
        finally:
            await run.stop()
    print(json.dumps({**report, "seconds": round(time.monotonic() - began, 1)}, indent=1))
    return 1 if report["lost"] or report["done_twice"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=8, help="most chunks of a job, about")
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds between kills")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without progress that end the run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--real-model", action="store_true")
    parser.add_argument("--data-dir", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.data_dir, options.database, options.serve, options.real_model)
        return 0
    return asyncio.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
