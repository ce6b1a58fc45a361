"""Two servers on a Ray cluster of two nodes: what dies and comes while viewers watch and jobs run, and what it costs.

    python tests/soak/cluster.py            # about two minutes; needs ray, PostgreSQL's initdb and pg_ctl

Four viewers watch in real time and two jobs run. A node is killed (its raylet, and so all that it started), a node is
added, a server is killed, PostgreSQL is stopped hard and started again. A viewer whose server is gone goes to another.
At the end every film is held against one that nothing disturbed: a picture that is missing, repeated or another counts.
For each event the report tells the longest wait between two chunks and how long viewers had nothing to play. The exit
status is 0 only when nothing was lost. The model is a test pattern, so the figures are those of the machinery.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import websockets
from websockets.asyncio.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
CHUNK_PICTURES, FPS = 12, 16
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
UP_WITHIN = 120.0
REACH_AGAIN = 0.1  # seconds between a viewer's tries
STEP = 0.2  # seconds between two words about the playhead
SAME = 1.5  # mean difference of a picture that another encoder may make; a missing one is 9 or more
AFTER = 15.0  # seconds behind an event in which a wait is laid to it


def serve(settings: dict[str, Any], port: int) -> None:
    """One server in a separate process."""
    from server.config import Settings
    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join
    from server.http.listener import listen
    from server.http.service import build
    from server.jobs.database import make_stores

    given = Settings(model="test-tiny", engine="ray", device="cpu", max_sessions=16, job_lease_seconds=3.0, **settings)
    join(given)
    engine = ClusterEngine(given, (sys.executable, str(PATTERN)), make_stores(given))
    asyncio.run(build(given, engine).serve(sockets=[listen("127.0.0.1", port)]))


@dataclass
class Front:
    """A server that can be killed."""

    settings: dict[str, Any]
    log: Path
    port: int = 0
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, str(Path(__file__)), "--front", json.dumps(self.settings), str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def ready(self, workers: int) -> None:
        """Wait until this many workers take sessions."""
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(UP_WITHIN):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    health = (await http.get(f"{self.url}/health")).json()
                    if [worker["status"] for worker in health["workers"]].count("ready") >= workers:
                        return
                await asyncio.sleep(0.1)


@dataclass
class Viewer:
    """Watches one film to its end in real time, on whichever server answers."""

    number: int
    fronts: list[Front]
    chunks: int
    at_once: bool = False  # as fast as it comes
    parts: list[list[bytes]] = field(default_factory=list)  # of each connection
    arrivals: list[float] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    starved: list[tuple[float, float]] = field(default_factory=list)  # from, to
    failure: str = ""
    session: dict[str, Any] | None = None
    done: bool = False

    async def run(self) -> None:
        turn = self.number
        while not self.done and not self.failure:
            front = self.fronts[turn % len(self.fronts)]
            try:
                url = front.url.replace("http", "ws") + "/v1/realtime/video"
                async with connect(url, max_size=None, proxy=None, open_timeout=UP_WITHIN) as socket:
                    await self._watch(socket)
            except (OSError, websockets.WebSocketException):
                pass
            if not self.done:
                turn += 1
                await asyncio.sleep(REACH_AGAIN)

    async def _watch(self, socket: ClientConnection) -> None:
        if self.session is None:
            wish = {"prompt": "a bar", "seed": self.number, "num_frames": self.chunks * CHUNK_PICTURES}
            await socket.send(json.dumps({"type": "session.start", **wish}))
        else:
            back = {"type": "session.resume", "last_chunk_index": len(self.indices) - 1, **self.session}
            await socket.send(json.dumps(back))
        self.parts.append([])
        playing = asyncio.create_task(self._play(socket))
        try:
            async for message in socket:
                if self._heard(message):
                    return
        finally:
            playing.cancel()

    def _heard(self, message: str | bytes) -> bool:
        """Handle a message; returns whether this connection is over."""
        if isinstance(message, bytes):
            self.parts[-1].append(message)
            self.arrivals.append(time.monotonic())
            self.indices.append(self._index)
            return False
        said = json.loads(message)
        match said["type"]:
            case "video.start" if self.session is None:
                self.session = {"session_id": said["session_id"], "token": said["resume_token"]}
            case "video.chunk_metadata":
                self._index = said["transport_chunk_index"]
            case "session.done":
                self.done = said["reason"] == "complete"
                return True
            case "error":
                self.failure = "" if said["retryable"] else f"{said['code']}: {said['message']}"
                return True
        return False

    async def _play(self, socket: ClientConnection) -> None:
        """Report the playhead; record waiting."""
        while True:
            await socket.send(json.dumps({"type": "session.playback", "position_seconds": self.position()}))
            await asyncio.sleep(STEP)

    def position(self) -> float:
        """Seconds of media that a viewer has seen who plays all that it has, and waits where it has none."""
        if self.at_once:
            return len(self.arrivals) * CHUNK_PICTURES / FPS
        self.starved, ends = [], 0.0
        for at in self.arrivals:
            if ends and at > ends:
                self.starved.append((ends, at))
            ends = max(ends, at) + CHUNK_PICTURES / FPS
        return max(0.0, len(self.arrivals) * CHUNK_PICTURES / FPS - max(0.0, ends - time.monotonic()))

    @property
    def whole(self) -> bool:
        return self.done and self.indices == list(range(self.chunks))

    def film(self) -> np.ndarray:
        """All pictures, (T, H, W, 3)."""
        return np.concatenate([decoded(b"".join(part)) for part in self.parts if part]).astype(int)


def decoded(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def same(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and bool(np.abs(one - two).mean(axis=(1, 2, 3)).max() < SAME)


@dataclass
class Jobs:
    """Videos that are created and polled until they are completed."""

    fronts: list[Front]
    pictures: int
    names: list[str] = field(default_factory=list)
    answers: dict[str, float] = field(default_factory=dict)

    async def run(self) -> list[str]:
        """Why each lost job was lost."""
        for number in range(2):
            order = {"prompt": f"sleep {number}", "num_frames": self.pictures, "seed": number}
            key = {"idempotency-key": f"job {number}"}
            self.names.append((await self._ask("POST", "/v1/videos", json=order, headers=key)).json()["id"])
        return [why for name in self.names if (why := await self._follow(name))]

    async def _follow(self, name: str) -> str:
        while (video := (await self._ask("GET", f"/v1/videos/{name}")).json())["status"] not in ("completed", "failed"):
            await asyncio.sleep(0.5)
        if video["status"] == "failed":
            return f"{name}: {video['error']}"
        made = decoded((await self._ask("GET", f"/v1/videos/{name}/content")).content)
        return "" if len(made) == self.pictures else f"{name}: {len(made)} pictures of {self.pictures}"

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            while True:
                for front in self.fronts:
                    with contextlib.suppress(httpx.HTTPError):
                        reply = await http.request(method, front.url + path, **options)
                        if reply.status_code < 500:
                            reply.raise_for_status()
                            return reply
                await asyncio.sleep(0.2)


class Run:
    """A cluster, two servers, viewers and jobs."""

    def __init__(self, folder: Path, cluster: Any, database: str) -> None:
        self.cluster, self.folder = cluster, folder
        shared = {
            "database": database,
            "sessions": str(folder / "sessions"),
            "videos": str(folder / "videos"),
            "ray_address": cluster.address,
            "ray_namespace": f"soak-{os.getpid()}",
        }
        self.fronts = [
            Front({**shared, "data_dir": str(folder / f"front-{number}")}, folder / f"front-{number}.log")
            for number in range(2)
        ]
        self.events: list[tuple[str, float]] = []
        self.viewers: list[Viewer] = []

    async def start(self) -> None:
        for front in self.fronts:
            front.start()
        for front in self.fronts:
            await front.ready(2)

    def stop(self) -> None:
        for front in self.fronts:
            if front.process is not None:
                front.kill()

    async def event(self, name: str, happens: Callable[[], Any]) -> None:
        self.events.append((name, time.monotonic()))
        await asyncio.to_thread(happens)

    async def watched(self, chunks: int, viewers: int, disturb: Callable[[Run], Awaitable[None]]) -> dict[str, Any]:
        """The whole run: watch, disturb, compare."""
        self.viewers = [Viewer(number, self.fronts, chunks) for number in range(viewers)]
        jobs = Jobs(self.fronts, chunks * CHUNK_PICTURES)
        watching = [asyncio.create_task(viewer.run()) for viewer in self.viewers]
        working = asyncio.create_task(jobs.run())
        while not all(len(viewer.arrivals) > 2 for viewer in self.viewers):
            await asyncio.sleep(0.05)
        await disturb(self)
        await asyncio.gather(*watching)
        lost = await working
        undisturbed = [Viewer(number, self.fronts, chunks, at_once=True) for number in range(viewers)]
        await asyncio.gather(*(viewer.run() for viewer in undisturbed))
        films = [same(one.film(), two.film()) for one, two in zip(self.viewers, undisturbed, strict=True)]
        return {
            "chunks": [len(viewer.indices) for viewer in self.viewers],
            "viewers_with_a_missing_or_repeated_picture": [
                viewer.number for viewer, film in zip(self.viewers, films, strict=True) if not (viewer.whole and film)
            ],
            "failures": [viewer.failure for viewer in self.viewers if viewer.failure],
            "jobs": len(jobs.names),
            "jobs_lost": lost,
            "events": [self._cost(name, at) for name, at in self.events],
        }

    def _cost(self, name: str, at: float) -> dict[str, Any]:
        """What viewers noticed of an event."""
        until = at + AFTER
        waits, starved = [], []
        for viewer in self.viewers:
            viewer.position()
            pairs = zip(viewer.arrivals, viewer.arrivals[1:], strict=False)
            waits.append(max((b - a for a, b in pairs if at < b <= until), default=0.0))
            starved.append(sum(b - a for a, b in viewer.starved if at < b <= until))
        rounded = {"wait_between_chunks": waits, "without_a_picture": starved}
        return {"event": name, **{key: [round(value, 2) for value in values] for key, values in rounded.items()}}


@contextmanager
def ray_nodes(nodes: int = 2) -> Iterator[Any]:
    """A cluster of nodes with a place for one CPU worker each, on loopback. For the main thread."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    head = {**NODE, "node_ip_address": "127.0.0.2", "include_dashboard": False}  # Ray takes 127.0.0.1 for no address
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for number in range(1, nodes):
            cluster.add_node(**NODE, node_ip_address=f"127.0.0.{2 + number}")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Add a node as an operator would on another machine. It ends with the cluster."""
    started = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address]
    place = ["--node-ip-address", "127.0.0.4", "--num-cpus", "1", "--object-store-memory", str(80 * 2**20)]
    place += ["--include-log-monitor", "false"]  # it would outlive the node
    subprocess.run([*started, *place], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def all_of_it(run: Run, postgres: Any) -> None:
    """The whole list of events, with time to recover after each."""
    (node,) = run.cluster.worker_nodes

    def restart() -> None:
        postgres.stop()
        time.sleep(2.0)
        postgres.start()

    await run.event("nothing", lambda: None)
    await asyncio.sleep(AFTER)
    await run.event("a node is killed", lambda: run.cluster.remove_node(node, allow_graceful=False))
    await asyncio.sleep(AFTER)
    await run.event("a node is added", lambda: add_node(run.cluster))
    await run.fronts[1].ready(2)
    await asyncio.sleep(AFTER)
    await run.event("a server is killed", run.fronts[0].kill)
    await asyncio.sleep(AFTER)
    run.fronts[0].start()
    await run.fronts[0].ready(2)
    await run.event("PostgreSQL is killed and comes back after 2 s", restart)
    await asyncio.sleep(AFTER)


async def soak(chunks: int) -> int:
    from tests.server.jobs.conftest import Postgres, postgres_programs

    began = time.monotonic()
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL (initdb, pg_ctl) is not here"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryDirectory() as data:
        postgres = Postgres(programs, Path(data))
        postgres.start()
        try:
            with ray_nodes() as cluster:
                run = Run(Path(folder), cluster, postgres.url)
                try:
                    await run.start()
                    report = await run.watched(chunks, 4, lambda run: all_of_it(run, postgres))
                finally:
                    run.stop()
        finally:
            postgres.stop()
    print(json.dumps({**report, "seconds": round(time.monotonic() - began, 1)}, indent=1))
    return 1 if report["viewers_with_a_missing_or_repeated_picture"] or report["jobs_lost"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=140, help="of each film, 0.75 s each")
    parser.add_argument("--front", nargs=2, metavar=("SETTINGS", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.front:
        serve(json.loads(options.front[0]), int(options.front[1]))
        return 0
    return asyncio.run(soak(options.chunks))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
