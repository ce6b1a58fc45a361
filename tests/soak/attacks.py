"""Runs one attack after another and measures what other viewers notice.

    python tests/soak/attacks.py --seconds 5

Its own server streams to one viewer all the time. For each attack the table shows the worst lag of the front's event
loop and the CPU time of its longest turn (upper edges of buckets of ``pafu_front_lag_seconds`` and
``pafu_front_busy_seconds``; on a shared machine, the second one shows the attack's effect), the slowest answer of
/healthz, the front's memory before and after, and the longest gap between two chunks of the viewer.

The exit status is 0 only if the loop was never busy for more than --allowed seconds, the viewer missed nothing and
the server still answers after every attack.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from pafu_client import connect
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from server.bench.launch import launched
from tests.server.socket_fuzz import CONTINUATION, HANDSHAKE, PING, PONG, TEXT, frame, text

MIB = 2**20
LOOK_SECONDS = 0.02
JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=B"
PART = b'--B\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n'
KEYS = b'{"prompt":"x",' + b",".join(b'"%d":1' % number for number in range(500_000)) + b"}"
LAGS = ("pafu_front_lag_seconds", "pafu_front_busy_seconds")
Attack = Callable[[int], Awaitable[None]]


def posts(body: bytes, kind: str = JSON, path: str = "/v1/videos") -> Attack:
    """Posts the same body repeatedly."""

    async def attack(port: int) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        while True:
            await says(port, [head.encode(), body])

    return attack


def tiny_chunks(body: bytes) -> Attack:
    """A body in chunks of one byte."""

    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"

    async def attack(port: int) -> None:
        head = "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        while True:
            await says(port, [f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), pieces])

    return attack


def floods(piece: bytes, begin: bytes = b"", reads: bool = False) -> Attack:
    """A socket that sends the same bytes as fast as possible."""

    async def attack(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE.encode() + begin)
        many = piece * max(1, 64 * 1024 // len(piece))
        listening = asyncio.create_task(reader.read(-1)) if reads else None
        try:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(many)
                    await writer.drain()
        finally:
            writer.transport.abort()
            if listening is not None:
                listening.cancel()

    return attack


async def says(port: int, parts: list[bytes], listens: bool = True) -> None:
    """One connection: sends, reads the beginning of the reply, leaves."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if listens:
                await reader.readline()
        finally:
            writer.transport.abort()


async def idle_connections(port: int) -> None:
    lines = []
    try:
        while True:
            with contextlib.suppress(OSError):
                lines.append((await asyncio.open_connection("127.0.0.1", port))[1])
            await asyncio.sleep(0.001)
    finally:
        for line in lines:
            line.transport.abort()


async def bodies_that_break_off(port: int) -> None:
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )
    while True:
        await says(port, [head], listens=False)


async def strange_hosts(port: int) -> None:
    number = 0
    while True:
        number += 1
        await says(port, [HANDSHAKE.replace("localhost", f"{number}.example").encode()])


ATTACKS: dict[str, Attack] = {
    "nothing": lambda port: asyncio.sleep(3600),
    "JSON of 500,000 keys": posts(KEYS),
    "JSON of 4 million numbers": posts(b'{"a":[' + b"1," * 4_000_000 + b"1]}"),
    "JSON of 4 million brackets": posts(b"[" * 4_000_000),
    "a picture of 8 MiB": posts(json.dumps({"prompt": "x", "input_reference": "A" * (8 * MIB - 100)}).encode()),
    "escaped quotes": posts(b'{"image_url":"' + b'\\"' * 4_000_000 + b'"}'),
    "urlencoded, a million fields": posts(b"a=1&" * 1_000_000, "application/x-www-form-urlencoded"),
    "multipart, 100,000 parts": posts(PART * 100_000, MULTIPART),
    "multipart, 8 MiB of CR": posts(PART[:-3] + b"\r" * (8 * MIB - 200), MULTIPART),
    "multipart, half boundaries": posts(PART[:-3] + b"\r\n-" * (2 * MIB), MULTIPART),
    "a ticket with 500,000 keys": posts(KEYS, path="/v1/realtime/client_secrets"),
    "a body in chunks of one byte": tiny_chunks(b" " * (MIB // 4)),
    "pipelined requests": posts(b"", path="/healthz"),
    "bodies that break off": bodies_that_break_off,
    "strange hosts": strange_hosts,
    "connections that say nothing": idle_connections,
    "socket: a start of 300,000 keys": floods(frame(TEXT, KEYS[: 4 * MIB]), reads=True),
    "socket: pings, never reads": floods(frame(PING, b"x" * 125)),
    "socket: pings": floods(frame(PING, b""), reads=True),
    "socket: pongs": floods(frame(PONG, b""), text({"type": "session.start", "prompt": "a bar"}), reads=True),
    "socket: empty pieces": floods(frame(CONTINUATION, b"", final=False), frame(TEXT, b"", final=False)),
    "socket: messages": floods(text({"type": "session.ping"}), text({"type": "session.start", "prompt": "a bar"})),
}


@dataclass
class Seen:
    """The effect of an attack on others; seconds and bytes."""

    lag: float = 0.0
    busy: float = 0.0
    slowest: float = 0.0
    gap: float = 0.0
    before: int = 0
    after: int = 0


def highest(before: dict[str, float], after: dict[str, float]) -> float:
    """Upper edge of the highest bucket of a histogram that grew."""
    grown = {edge: count - before.get(edge, 0.0) for edge, count in after.items()}
    return next(float(edge) for edge, count in grown.items() if count == grown["+Inf"])


class Others:
    """A viewer who watches all the time and polls the server's health."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url, self._http = url, http
        self._chunk_at = time.monotonic()
        self._buckets: dict[str, dict[str, float]] = {}
        self.gap = self.slowest = 0.0
        self.missed: list[str] = []

    async def watch(self) -> None:
        last = -1
        async with connect(self._url, prompt="a red house", seed=1) as stream:
            async for chunk in stream:
                now = time.monotonic()
                self.gap, self._chunk_at = max(self.gap, now - self._chunk_at), now
                if chunk.metadata.index != last + 1:
                    self.missed.append(f"chunk {last + 1}")
                last = chunk.metadata.index
        self.missed.append("the stream ended")

    async def ask(self) -> None:
        while True:
            began = time.monotonic()
            await self._http.get("/healthz")
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(LOOK_SECONDS)

    async def lags(self) -> tuple[float, float]:
        """Lag and busy time: upper edges of the highest buckets that grew since the last call."""
        reply = (await self._http.get("/metrics")).text
        before, self._buckets = self._buckets, {}
        for family in text_string_to_metric_families(reply):
            if family.name in LAGS:
                counts = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
                self._buckets[family.name] = counts
        lag, busy = (highest(before.get(name, {}), self._buckets[name]) for name in LAGS)
        return lag, busy

    async def memory(self) -> int:
        return int((await self._http.get("/health")).json()["front"]["rss_bytes"])


async def suffer(name: str, port: int, others: Others, seconds: float, at_once: int) -> Seen:
    """Run attackers for a time; returns the effect on others."""
    seen = Seen(before=await others.memory())
    await others.lags()
    others.gap = others.slowest = 0.0
    attackers = [asyncio.create_task(ATTACKS[name](port)) for _ in range(at_once)]
    await asyncio.sleep(seconds)
    for attacker in attackers:
        attacker.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    (seen.lag, seen.busy), seen.slowest, seen.gap = await others.lags(), others.slowest, others.gap
    seen.after = await others.memory()
    return seen


async def run(url: str, options: argparse.Namespace, console: Console) -> bool:
    port, table, good = int(url.rpartition(":")[2]), Table(), True
    for title in ("attack", "worst lag", "busy", "slowest /healthz", "memory before", "after", "longest gap"):
        table.add_column(title, justify="left" if title == "attack" else "right")
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        others = Others(url, http)
        tasks = [asyncio.create_task(others.watch()), asyncio.create_task(others.ask())]
        await asyncio.sleep(2.0)
        for name in [name for name in ATTACKS if options.only in name]:
            seen = await suffer(name, port, others, options.seconds, options.at_once)
            good = good and seen.busy <= options.allowed
            memory = f"{seen.before / MIB:.0f} MiB", f"{seen.after / MIB:.0f} MiB"
            lags = f"<= {1000 * seen.lag:.0f} ms", f"<= {1000 * seen.busy:.0f} ms"
            times = *lags, f"{1000 * seen.slowest:.0f} ms"
            table.add_row(name, *times, *memory, f"{seen.gap:.2f} s")
            console.print(f"{name}: {lags[0]}, busy {lags[1]}", highlight=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    console.print(table)
    if others.missed:
        console.print(f"the viewer missed: {', '.join(others.missed)}")
    return good and not others.missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test-tiny")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--at-once", type=int, default=4, help="attackers")
    parser.add_argument("--only", default="", help="attacks with this in their name")
    parser.add_argument("--allowed", type=float, default=0.05, help="CPU seconds of the event loop at once")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        launched(model=options.model, threads=1, max_sessions=8, data_dir=data, keep_on_disk=0) as server,
    ):
        server.wait_ready()
        os.nice(10)  # attackers are other machines, which take no core from this one
        return 0 if asyncio.run(run(server.url(), options, Console(width=120))) else 1


if __name__ == "__main__":
    sys.exit(main())
