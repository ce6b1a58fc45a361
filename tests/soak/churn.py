"""Viewers come and leave at random moments; the bytes of one who stays must be the same as if it were alone.

    python tests/soak/churn.py --visits 1000

It starts its own server, whose sessions wait one second on the device and one second on disk for vanished viewers.
Afterwards no session, task, open file, cache byte or file on disk may be left of the visits. The exit status is
0 only if this holds, nothing failed inside the server, and the bytes of the viewer who stayed are unchanged.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pafu_client
import websockets
from rich.console import Console
from rich.progress import Progress
from websockets.asyncio.client import ClientConnection, connect

from server.bench.launch import ServerProcess, get_json, launched
from server.bench.target import memory, open_files

START = {"type": "session.start", "prompt": "a bar"}
SERIOUS = ("internal_error", "generation_failed", "worker_failed", "not_finite", "out_of_memory")
PATIENCE = 120.0
KEEP = 1.0  # seconds that a session waits for its viewer on the device, and then on disk
SETTLE_WITHIN = 120.0


class Finding(AssertionError):
    """The server did something forbidden."""


class Visitor:
    """One connection of a visitor who will leave."""

    def __init__(self, socket: ClientConnection, dice: random.Random, stayer: str) -> None:
        self.socket, self.dice, self.stayer = socket, dice, stayer

    async def say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await self.socket.send(json.dumps(message))

    async def start(self, **fields: Any) -> None:
        await self.say({**START, "seed": self.dice.randrange(100), **fields})

    async def until(self, *kinds: str) -> dict[str, Any] | None:
        """Read up to a message of one of these types; None if the connection ends first. Raises Finding."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                received = await self.socket.recv()
                if isinstance(received, bytes):
                    continue
                message: dict[str, Any] = json.loads(received)
                if message.get("code") in SERIOUS:
                    raise Finding(f"the server failed: {message}")
                if message["type"] in kinds:
                    return message
        return None

    async def a_moment(self) -> None:
        await asyncio.sleep(self.dice.choice([0.0, 0.01, 0.1, 0.3]))

    def cut(self) -> None:
        """Leave without closing."""
        self.socket.transport.abort()


Visit = Callable[[Visitor, int], Awaitable[None]]


async def leaves_before_start(visitor: Visitor, port: int) -> None:
    await visitor.a_moment()


async def leaves_at_once_after_start(visitor: Visitor, port: int) -> None:
    await visitor.start()
    await visitor.a_moment()


async def leaves_the_queue(visitor: Visitor, port: int) -> None:
    await visitor.start()
    await visitor.until("session.queued", "video.start")
    await visitor.a_moment()


async def leaves_between_a_chunk_and_its_metadata(visitor: Visitor, port: int) -> None:
    await visitor.start()
    for _ in range(visitor.dice.randrange(1, 4)):
        await visitor.until("video.chunk_metadata")


async def leaves_paused(visitor: Visitor, port: int) -> None:
    await visitor.start()
    if await visitor.until("video.start"):
        await visitor.say({"type": "session.pause"})
        await visitor.until("session.paused")
        await visitor.a_moment()


async def leaves_half_open(visitor: Visitor, port: int) -> None:
    """Close only the sending side."""
    await visitor.start()
    await visitor.until("video.start", "session.queued")
    with contextlib.suppress(OSError, RuntimeError):
        visitor.socket.transport.write_eof()
    await visitor.a_moment()


async def comes_back_and_leaves(visitor: Visitor, port: int) -> None:
    await visitor.start()
    started, seen = await visitor.until("video.start"), await visitor.until("video.chunk_metadata")
    visitor.cut()
    await visitor.a_moment()
    if started is None or seen is None:
        return
    async with visiting(port, visitor.dice, visitor.stayer) as again:
        resume = {"type": "session.resume", "session_id": started["session_id"], "token": started["resume_token"]}
        await again.say({**resume, "last_chunk_index": seen["transport_chunk_index"] - 1})
        await again.until("video.chunk_metadata")
        if again.dice.random() < 0.5:
            await again.say({"type": "session.stop"})
            await again.until("session.done")


async def looks_on_and_leaves(visitor: Visitor, port: int) -> None:
    await visitor.say({"type": "session.watch", "session_id": visitor.stayer})
    for _ in range(visitor.dice.randrange(1, 3)):
        await visitor.until("video.chunk_metadata")


async def stops(visitor: Visitor, port: int) -> None:
    await visitor.start()
    await visitor.a_moment()
    await visitor.say({"type": "session.stop"})
    await visitor.until("session.done")


async def stays_to_the_end(visitor: Visitor, port: int) -> None:
    await visitor.start(num_frames=13)
    await visitor.until("session.done")


VISITS: list[Visit] = [
    leaves_before_start,
    leaves_at_once_after_start,
    leaves_the_queue,
    leaves_between_a_chunk_and_its_metadata,
    leaves_paused,
    leaves_half_open,
    comes_back_and_leaves,
    looks_on_and_leaves,
    stops,
    stays_to_the_end,
]


@contextlib.asynccontextmanager
async def visiting(port: int, dice: random.Random, stayer: str) -> AsyncIterator[Visitor]:
    """A connection that is cut after the block, whatever happens in it."""
    address = f"ws://127.0.0.1:{port}/v1/realtime/video"
    socket = await connect(address, max_size=None, proxy=None, ping_interval=None, open_timeout=PATIENCE)
    visitor = Visitor(socket, dice, stayer)
    try:
        yield visitor
    finally:
        visitor.cut()
        await socket.wait_closed()


async def pay(port: int, number: int, seed: int, stayer: str) -> str:
    """Make one visit, by its number; returns its kind. Raises Finding."""
    dice = random.Random(f"{seed}/{number}")
    visit = VISITS[number % len(VISITS)]
    try:
        async with asyncio.timeout(PATIENCE), visiting(port, dice, stayer) as visitor:
            await visit(visitor, port)
    except TimeoutError:
        raise Finding(f"{visit.__name__}, number {number}: no answer in {PATIENCE:g} s") from None
    except Finding as error:
        raise Finding(f"{visit.__name__}, number {number}: {error}") from error
    return visit.__name__


async def churn(
    port: int, numbers: range, seed: int, stayer: str, at_once: int, told: Callable[[], None] = lambda: None
) -> collections.Counter[str]:
    """Make all visits, this many at once; returns how many there were of each kind. Raises Finding."""
    seen: collections.Counter[str] = collections.Counter()
    waiting = iter(numbers)

    async def come_and_go() -> None:
        for number in waiting:
            seen[await pay(port, number, seed, stayer)] += 1
            told()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(come_and_go())
    return seen


class Stayer:
    """A viewer in real time who stays: the hashes of its chunks, and whether it had to reconnect."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.seed = url, seed
        self.hashes: list[str] = []
        self.session = ""
        self._began = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        options: Any = {"prompt": START["prompt"], "seed": self.seed, "resume_within": 0.0}
        async with pafu_client.connect(self.url, **options) as stream:
            self.session = stream.init.session_id
            self._began.set()
            async for chunk in stream:
                self.hashes.append(hashlib.sha256(chunk.data).hexdigest())

    async def began(self) -> str:
        """The id of its session, once it has a chunk."""
        waiting = asyncio.create_task(self._began.wait())
        await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        self._check()
        return self.session

    async def leave(self) -> list[str]:
        """The hashes of all its chunks. Raises Finding if its stream had ended before."""
        self._check()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.hashes

    def _check(self) -> None:
        if self._task.done():
            raise Finding(f"the stayer's stream ended: {self._task.exception()!r}")


async def alone(url: str, seed: int, chunks: int, pictures_in_chunk: int) -> list[str]:
    """The hashes of the same stream without other viewers."""
    hashes: list[str] = []
    options: Any = {"prompt": START["prompt"], "seed": seed, "realtime": False}
    async with pafu_client.connect(url, num_frames=chunks * pictures_in_chunk, **options) as stream:
        async for chunk in stream:
            hashes.append(hashlib.sha256(chunk.data).hexdigest())
    return hashes


def held(server: ServerProcess, url: str, folder: Path) -> dict[str, float]:
    """Everything that visits could leave behind."""
    health, sessions = get_json(f"{url}/health")[1], get_json(f"{url}/v1/sessions")[1]
    front, worker = health["front"], health["workers"][0]
    return {
        "sessions": health["sessions"] + len(sessions["data"]),
        "viewers and waiting": health["viewers"] + health["waiting"],
        "cache bytes": health["cache"]["held_bytes"],
        "tasks of the front": front["tasks"],
        "open files of the front": open_files(front["pid"]),
        "open files of the worker": open_files(worker["pid"]),
        "files on disk": sum(path.is_file() for path in (folder / "sessions").rglob("*")),
        "restarts of the worker": worker["restarts"],
    }


async def settled(server: ServerProcess, url: str, folder: Path, before: dict[str, float]) -> dict[str, float]:
    """What is held, as soon as it is no more than ``before``, or at the end."""
    give_up = time.monotonic() + SETTLE_WITHIN
    while True:
        now = await asyncio.to_thread(held, server, url, folder)
        if all(now[name] <= before[name] for name in now) or time.monotonic() > give_up:
            return now
        await asyncio.sleep(0.25)


def resident(url: str) -> dict[str, float]:
    """MiB of both processes."""
    return {part: round(size, 1) for part, size in memory(url).items()}


async def run(options: argparse.Namespace, server: ServerProcess, folder: Path, progress: Progress) -> dict[str, Any]:
    """Warm up, note what is held, make all visits, and compare."""
    url = server.url()
    port, pictures = int(url.rsplit(":", 1)[1]), get_json(f"{url}/v1/models")[1]["data"][0]["chunk_frames"]
    task = progress.add_task("visits", total=options.visits + options.warm_up)
    told = lambda: progress.advance(task)  # noqa: E731
    stayer = Stayer(url, options.seed)
    await churn(port, range(options.warm_up), options.seed, await stayer.began(), options.at_once, told)
    await stayer.leave()
    empty = {"sessions": 0, "viewers and waiting": 0, "cache bytes": 0, "files on disk": 0}
    await asyncio.sleep(3 * KEEP)
    before = {**await asyncio.to_thread(held, server, url, folder), **empty}
    memory = [resident(url)]
    stayer, seen = Stayer(url, options.seed), collections.Counter[str]()
    session, began = await stayer.began(), time.monotonic()
    for numbers in quarters(options.warm_up, options.visits):
        seen += await churn(port, numbers, options.seed, session, options.at_once, told)
        memory.append(await asyncio.to_thread(resident, url))
    hashes = await stayer.leave()
    seconds = time.monotonic() - began
    after = await settled(server, url, folder, before)
    memory.append(resident(url))
    return {
        "visits": dict(seen),
        "seconds": round(seconds, 1),
        "before": before,
        "after": after,
        "left behind": {name: after[name] - before[name] for name in after if after[name] > before[name]},
        "chunks of the stayer": len(hashes),
        "chunks that differ": sum(
            one != other
            for one, other in zip(hashes, await alone(url, options.seed, len(hashes), pictures), strict=True)
        ),
        "resident MiB: before, after each quarter, at rest": memory,
        "errors in the log": [line for line in server.lines if "Traceback" in line or "never retrieved" in line],
    }


def quarters(first: int, count: int) -> Iterator[range]:
    """The numbers from ``first`` on, in four parts."""
    edges = [first + round(count * part / 4) for part in range(5)]
    return (range(begin, end) for begin, end in zip(edges, edges[1:], strict=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=50, help="visits before anything is counted")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="test-tiny")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        launched(
            model=options.model,
            data_dir=data,
            max_sessions=4,
            max_waiting=1000,
            keep_on_device=KEEP,
            keep_on_disk=KEEP,
            max_lead_seconds=60,
        ) as server,
    ):
        server.wait_ready()
        with Progress(console=Console(stderr=True)) as progress:
            report = asyncio.run(run(options, server, Path(data), progress))
    print(json.dumps(report, indent=1))
    return 1 if report["left behind"] or report["chunks that differ"] or report["errors in the log"] else 0


if __name__ == "__main__":
    sys.exit(main())
