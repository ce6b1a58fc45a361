"""What a chunk costs on its way from a worker to the server: over Ray, and from a worker process of the server's own.

    python tests/soak/engines.py                 # a test pattern, whose chunks cost next to nothing
    python tests/soak/engines.py --model pafu-mini

One session at a time, each chunk acknowledged before the next may begin, on either engine in turn. The report tells the
median time of a chunk, from the one before to its arrival, and the ratio. The cluster is one node on loopback;
``--noise`` makes chunks of 160 kB instead of one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATTERN = (sys.executable, str(ROOT / "tests" / "server" / "pattern.py"))
TURNS, WARM = 4, 3  # sessions on each engine, alternating; chunks that do not count


async def chunks(engine: Any, order: Any) -> tuple[list[float], int]:
    """Seconds of each chunk, and the bytes of one."""
    from server.ipc.messages import Fragment

    line = await engine.open(order)
    seconds, size, last = [], 0, time.perf_counter()
    async for event in line.events():
        if isinstance(event, Fragment):
            now = time.perf_counter()
            seconds.append(now - last)
            last, size = now, len(event.data)
            await line.delivered(event.index)
    await line.close()
    return seconds[WARM:], size


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from server.config import Settings
    from server.engine.cluster.engine import ClusterEngine
    from server.engine.cluster.join import join
    from server.engine.local import LocalEngine
    from server.engine.slots import slots_for
    from server.ipc.messages import CacheChoice, Open
    from tests.soak.cluster import ray_nodes

    given = {"model": options.model, "device": "cpu", "threads": 1, "data_dir": folder, "max_sessions": 1}
    command = (PATTERN,) if options.model == "test-tiny" else ()
    found: dict[str, Any] = {}
    with ray_nodes(1) as cluster:
        far = Settings(**given, engine="ray", ray_address=cluster.address, ray_namespace="bench")
        join(far)
        near = Settings(**given)
        engines = {"local": LocalEngine(near, slots_for(near), *command), "ray": ClusterEngine(far, *command)}
        for engine in engines.values():
            await engine.start()
            await engine.wait_ready(300.0)
        measured: dict[str, list[Any]] = {name: [] for name in engines}
        for turn in range(TURNS):
            for name, engine in engines.items():
                order = Open(
                    session=f"job_{turn}",
                    prompt="noise" if options.noise else "a red ball on grass",
                    seed=turn,
                    lead_seconds=math.inf,
                    cache=CacheChoice.of(near.cache()),
                    pictures=options.chunks * near.spec.pictures_in_chunk(1),
                    background=True,
                )
                measured[name].append(await chunks(engine, order))
        for name, parts in measured.items():
            every = [seconds for part, _ in parts for seconds in part]
            found[name] = {
                "chunk_ms": round(1e3 * statistics.median(every), 2),
                "chunks": len(every),
                "bytes": parts[0][1],
            }
        for engine in engines.values():
            await engine.stop(1.0)
    return {**found, "ratio": round(found["ray"]["chunk_ms"] / found["local"]["chunk_ms"], 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test-tiny")
    parser.add_argument("--chunks", type=int, default=100, help="of each session")
    parser.add_argument("--noise", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(options, Path(folder))), indent=1))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
