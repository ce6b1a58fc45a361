"""How many viewers one core of the front carries: its processor time per viewer, measured over synthetic workers.

    python tests/soak/front.py                    # chunks of 160 kB, the size of 832 x 480 at 2 Mbit/s
    python tests/soak/front.py --chunk small      # chunks of 1 kB: the cost of messages alone

A real front serves viewers who play in real time. A test pattern stands in for the model, so that nothing but the front
costs much. Each level reports the front's share of a core, viewers per core at that rate, and its memory. The largest
level that holds (no late chunk, nobody refused) is the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
PATTERN = ROOT / "tests" / "server" / "pattern.py"
SERVE = """
import asyncio, json, sys
from server.config import Settings
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.http.listener import listen
from server.http.service import build

settings = Settings(model="test-tiny", gallery=False, **json.loads(sys.argv[1]))
service = build(settings, LocalEngine(settings, slots_for(settings), (sys.executable, sys.argv[2])))
socket = listen("127.0.0.1", 0)
print(socket.getsockname()[1], flush=True)
asyncio.run(service.serve(sockets=[socket]))
"""
LEVELS = [10, 20, 40, 80]
PROMPTS = {"small": "a red ball on grass", "large": "noise"}


def cpu_seconds(pid: int) -> float:
    """User and system time of one process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(front: subprocess.Popen[str], url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per level, until one fails or all were tried."""
    from server.bench.sessions import Plan, level
    from server.bench.target import describe

    fps = describe(url)["model"]["fps"]
    plan = Plan(options.seconds, 4.0, max(options.viewers), fps, (PROMPTS[options.chunk],))
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        for count in options.viewers:
            task = progress.add_task(f"{count} viewers", total=count * plan.pictures)
            cpu, began = cpu_seconds(front.pid), time.perf_counter()
            found = await level(url, count, plan, progress, task)
            cpu, took = cpu_seconds(front.pid) - cpu, time.perf_counter() - began
            watched = found["pictures_per_second"] * took / fps  # viewer seconds
            rows.append(
                {
                    "viewers": count,
                    "holds": found["holds"],
                    "failures": found["failures"],
                    "deadlines_missed": found["deadlines_missed"],
                    "front_cores": round(cpu / took, 3),
                    "front_cpu_ms_per_viewer_second": round(1e3 * cpu / watched, 2),
                    "viewers_per_core": round(watched / cpu),
                    "front_rss_mib": round(found["rss_mib"]["front"], 1),
                    "clients_cores": round(found["viewers_cores"], 2),
                }
            )
            if not found["holds"]:
                break
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--viewers", type=lambda text: [int(part) for part in text.split(",")], default=[10, 20, 40, 80]
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of video that each viewer plays")
    parser.add_argument("--chunk", choices=sorted(PROMPTS), default="large")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = json.dumps({"data_dir": folder, "max_sessions": max(options.viewers), "threads": 1, "device": "cpu"})
        command = (sys.executable, "-c", SERVE, settings, str(PATTERN))
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}"}
        front = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            url = f"http://127.0.0.1:{front.stdout.readline().strip()}"  # type: ignore[union-attr]
            rows = asyncio.run(measure(front, url, options))
        finally:
            front.terminate()
            front.wait()
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
