"""Kill workers and servers at random moments while they make videos, then count: none lost, none done twice.

    python tests/soak/kill_jobs.py --kills 500 --jobs 200            # the long proof
    python tests/soak/kill_jobs.py --kills 8 --jobs 4 --real-model   # with the small random model instead of a pattern

Two servers share one database and one folder. Each kill (SIGKILL) hits a random one of the four processes; a killed
server is started again. Most victims may first come up, or nothing would be killed but starting processes; then a
random time goes by. Orders are spread over the kills, so that there is always work to kill. A video is *lost* when it
does not become completed; *done twice* when its folder holds a chunk or a film twice, or when its pictures are not
exactly those that were ordered, in order. The exit status is 0 only when both counts are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import io
import json
import multiprocessing
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
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.engine.supervisor import WORKER_COMMAND
from server.http.listener import listen
from server.http.service import build

ROOT = Path(__file__).resolve().parents[2]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
SERVERS = 2
LEASE_SECONDS = 3.0
UP_WITHIN = 60.0
ORDERED_BY = 0.95  # of the kills: the last job is ordered then


def serve(data_dir: Path, database: str | None, port: int, real: bool) -> None:
    """One server in a separate silent process."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    settings = Settings(
        model="test-tiny",
        data_dir=data_dir,
        database=database,
        job_lease_seconds=LEASE_SECONDS,
        max_queued_jobs=100_000,
        job_max_failures=100,  # here it is never the job's fault
        threads=1,
        max_sessions=4,
    )
    command = WORKER_COMMAND if real else (sys.executable, str(PATTERN))
    service = build(settings, LocalEngine(settings, slots_for(settings), command))
    asyncio.run(service.serve(sockets=[listen("127.0.0.1", port)]))


# Imported once and forked: starting 250 interpreters would be most of the work. What is killed is a whole process.
FORKS = multiprocessing.get_context("forkserver")


@dataclass
class Server:
    """A server that is restarted whenever it was killed."""

    data_dir: Path
    database: str | None
    real: bool
    port: int
    process: Any = None

    def start(self) -> None:
        self.process = FORKS.Process(target=serve, args=(self.data_dir, self.database, self.port, self.real))
        self.process.start()

    async def worker(self, http: httpx.AsyncClient) -> int | None:
        """The worker's pid, once there is one."""
        give_up = time.monotonic() + UP_WITHIN
        while time.monotonic() < give_up:
            with contextlib.suppress(httpx.HTTPError):
                health = (await http.get(f"http://127.0.0.1:{self.port}/health")).json()
                if health["status"] == "ready":
                    pid: int | None = health["workers"][0]["pid"]
                    return pid
            await asyncio.sleep(0.05)
        return None

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()
        self.start()

    async def ended(self) -> None:
        await asyncio.to_thread(self.process.join)


@dataclass
class Tally:
    """What was done and what came of it."""

    kills: dict[str, int] = field(default_factory=lambda: {"server": 0, "worker": 0})
    under_way: int = 0  # kills while a job was unfinished
    orders: dict[str, int] = field(default_factory=dict)  # id: pictures
    states: dict[str, str] = field(default_factory=dict)  # id: as last seen

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    @property
    def unfinished(self) -> list[str]:
        return [name for name, state in self.states.items() if state not in ("completed", "failed")]


class Soak:
    """The whole run."""

    def __init__(self, options: argparse.Namespace, data_dir: Path) -> None:
        self.options, self.data_dir = options, data_dir
        self.random = random.Random(options.seed)
        database, real = options.database, options.real_model
        self.servers = [Server(data_dir, database, real, free_port()) for _ in range(SERVERS)]
        self.tally = Tally()
        self.http = httpx.AsyncClient(trust_env=False, timeout=30)

    async def run(self, progress: Progress) -> dict[str, Any]:
        for server in self.servers:
            server.start()
        ordered = progress.add_task("ordered", total=self.options.jobs)
        killed = progress.add_task("killed", total=self.options.kills)
        done = progress.add_task("completed", total=self.options.jobs)
        killing = asyncio.create_task(self.kill_all(progress, killed))
        ordering = asyncio.create_task(self.order_all(progress, ordered))
        try:
            await self.watch(progress, done, asyncio.gather(killing, ordering))
        finally:
            killing.cancel()
            ordering.cancel()
        return await self.report()

    async def order_all(self, progress: Progress, task: Any) -> None:
        for number in range(self.options.jobs):
            while self.tally.killed < ORDERED_BY * self.options.kills * number / self.options.jobs:
                await asyncio.sleep(0.05)
            pictures = self.random.randint(13, 13 + 12 * self.options.chunks)
            prompt = "sleep" if not self.options.real_model else "a red house"
            body = {"prompt": f"{prompt} {number}", "num_frames": pictures, "seed": number}
            made = await self.ask("POST", "/v1/videos", json=body, headers={"idempotency-key": str(number)})
            self.tally.orders[made["id"]], self.tally.states[made["id"]] = pictures, "queued"
            progress.advance(task)

    async def kill_all(self, progress: Progress, task: Any) -> None:
        dice = random.Random(self.options.seed + 1)
        while self.tally.killed < self.options.kills:
            server, kind = dice.choice(self.servers), dice.choice(["server", "worker"])
            pid = await server.worker(self.http) if kind == "worker" or dice.random() < 0.75 else None
            await asyncio.sleep(dice.uniform(0, 2 * self.options.every))
            if kind == "server":
                await server.kill()
            elif pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            else:
                continue
            self.tally.kills[kind] += 1
            self.tally.under_way += bool(self.tally.unfinished)
            progress.advance(task)

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """The reply of any server that answers; orders carry an idempotency key, so repeating is safe."""
        while True:
            for server in self.servers:
                with contextlib.suppress(httpx.HTTPError):
                    reply = await self.http.request(method, f"http://127.0.0.1:{server.port}{path}", **options)
                    if reply.status_code < 500:
                        reply.raise_for_status()
                        return reply.json() if "json" in reply.headers["content-type"] else reply.content
            await asyncio.sleep(0.2)

    async def watch(self, progress: Progress, task: Any, doing: asyncio.Future[Any]) -> None:
        """Follow all jobs until they are over, or until nothing has changed for long after the last kill."""
        tally, last, quiet_since = self.tally, "", time.monotonic()
        while True:
            videos = [await self.ask("GET", f"/v1/videos/{name}") for name in tally.unfinished]
            tally.states |= {video["id"]: video["status"] for video in videos}
            progress.update(task, completed=list(tally.states.values()).count("completed"))
            if doing.done():
                doing.result()
            now = json.dumps([(video["id"], video["status"], video["progress"]) for video in videos])
            if now != last or not doing.done():
                last, quiet_since = now, time.monotonic()
            if (doing.done() and not tally.unfinished) or time.monotonic() - quiet_since > self.options.patience:
                return
            await asyncio.sleep(0.5)

    async def report(self) -> dict[str, Any]:
        tally = self.tally
        finished = [name for name, state in tally.states.items() if state == "completed"]
        chunks = [(path.parent.name, path.stem.split("-")[1]) for path in self.data_dir.rglob("*.m4s")]
        claims = collections.Counter(job for job, _ in set(chunks))
        return {
            "jobs": len(tally.states),
            "kills": tally.kills,
            "kills_while_jobs_were_unfinished": tally.under_way,
            "chunks": len(chunks),
            "jobs_resumed_with_chunks": sum(count > 1 for count in claims.values()),
            "most_claims_of_a_job": max(claims.values(), default=0),
            "lost": [name for name in tally.states if name not in finished],
            "done_twice": [name for name in finished if not await self.once(name)],
        }

    async def once(self, name: str) -> bool:
        """Check that there is each chunk once, one film, and exactly the ordered pictures."""
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
            if server.process is not None:
                server.process.terminate()
                await server.ended()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def soak(options: argparse.Namespace) -> int:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    os.environ["PYTHONPATH"] = str(ROOT)  # for the workers
    FORKS.set_forkserver_preload(["server.http.service", "server.jobs.runner"])
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
    parser.add_argument("--every", type=float, default=1.0, help="mean seconds before a kill")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without progress that end the run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database; default: SQLite")
    parser.add_argument("--real-model", action="store_true")
    options = parser.parse_args()
    return asyncio.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
