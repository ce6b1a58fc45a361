"""Promise: pafu bench reports what happened: waiting times, and how many viewers were served in real time."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from rich.console import Console

from server.bench import sessions, soak
from server.bench.sessions import Plan, best_of, next_count, summary
from server.bench.target import percentiles, quantile
from server.bench.viewer import Player, Seen, view


def chunk(pictures: int = 12, started: tuple[str, ...] = ()) -> SimpleNamespace:
    metadata = SimpleNamespace(num_frames=pictures, started_event_ids=started, stats={"chunk_seconds": 0.1})
    return SimpleNamespace(metadata=metadata, data=b"1234")


def played(arrivals: list[float], **options) -> Seen:
    """What a viewer saw of 12-picture chunks at 16 fps (0.75 s), having requested them at time 1."""
    player = Player(16, 1.0, Seen())
    for now in arrivals:
        player.take(chunk(**options), now)
    return player.seen


def test_chunks_that_come_before_the_last_is_played_miss_nothing() -> None:
    seen = played([2.0, 2.75, 3.0, 4.25])
    assert (seen.first_chunk, seen.misses, seen.stalled, seen.deadlines, seen.pictures) == (1.0, 0, 0.0, 3, 48)
    assert seen.gaps == [0.75, 0.25, 1.25]


def test_a_late_chunk_is_a_stall_and_moves_every_later_deadline() -> None:
    seen = played([2.0, 3.0, 3.75, 4.5])  # due at 2.75; then the player is 0.25 s behind
    assert (seen.misses, seen.stalled, seen.longest_stall) == (1, 0.25, 0.25)
    assert played([2.0, 3.0, 3.75, 5.0]).misses == 2


def test_a_change_is_timed_to_its_chunk_and_to_the_moment_when_that_is_played() -> None:
    player = Player(16, 1.0, Seen())
    player.take(chunk(), 2.0)
    player.ask("evt_1", 2.1)
    player.take(chunk(), 2.2)
    player.take(chunk(started=("evt_1", "not ours")), 2.3)
    assert player.seen.switch_arrived == [pytest.approx(0.2)]
    assert player.seen.switch_shown == [pytest.approx(1.4)], "1.5 s of pictures are shown first, from 2.0 on"


def test_quantiles_are_values_that_were_measured() -> None:
    values = list(range(1, 101))
    assert [quantile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert quantile([7.0], 0.5) == 7.0
    assert percentiles([]) == {"count": 0, "p50": 0.0, "p95": 0.0, "p99": 0.0}


def test_a_level_holds_only_when_everybody_got_everything_in_time() -> None:
    good, late, short = (played([2.0, 2.5]), played([2.0, 3.0]), played([2.0]))
    assert summary([good, good], 24)["holds"]
    found = summary([good, late], 24)
    assert not found["holds"] and found["deadline_attainment"] == 0.5 and found["sessions_that_stalled"] == 1
    assert not summary([good, short], 24)["holds"]
    assert not summary([good, Seen(failure="no place is free")], 24)["holds"]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 8, 64])
def test_the_search_ends_at_the_largest_number_that_holds(most) -> None:
    for truth in range(most + 1):
        held: dict[int, bool] = {}
        count: int | None = 1
        while count is not None:
            assert count not in held
            held[count] = count <= truth
            count = next_count(held, most)
        assert max((tried for tried, holds in held.items() if holds), default=0) == truth
        assert len(held) <= 12


async def test_viewers_of_a_real_server_are_measured(serve) -> None:
    server = await serve(max_sessions=2)
    plan = Plan(seconds=3.75, change_every=0.3, most=2, fps=16, prompts=("a bar", "a mill"))
    levels = await sessions.search(server.url, plan, Console(quiet=True))
    alone = levels[0]
    assert (alone["sessions"], alone["deadlines"], alone["first_chunk_seconds"]["count"]) == (1, 4, 1)
    assert alone["prompt_to_picture_seconds"]["count"] and alone["rss_mib"]["front"] > 0 and not alone["failures"]
    report = {"model": await model_of(server), "machine": {"processor": "x", "cores": 2}, "levels": levels}
    sessions.show({**report, "sessions_in_real_time": best_of(levels)}, Console(quiet=True))
    json.dumps(report)
    await server.empties()


async def test_a_refused_viewer_says_why(serve, viewer_of) -> None:
    server = await serve(max_sessions=1)
    async with server.connect() as socket:
        assert (await viewer_of(socket).start())["type"] == "video.start"
        seen = Seen()
        await view(server.url, seen, pictures=12, fps=16, seed=1, prompts=("a bar",))
        assert "no place is free" in seen.failure and seen.pictures == 0


async def model_of(server) -> dict:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
        return (await client.get("/v1/models")).json()["data"][0]


async def test_a_soak_writes_lines_and_ends_by_the_clock(serve, tmp_path) -> None:
    server = await serve()
    await server.engine.settled()  # a worker that still loads has no memory to tell of
    async with asyncio.timeout(120):
        lines, everybody = await soak.stream(
            server.url, await model_of(server), 0.03, 2, 0.5, tmp_path / "soak.csv", Console(quiet=True)
        )
    written = (tmp_path / "soak.csv").read_text().splitlines()
    assert len(written) == len(lines) + 1 and written[0].split(",") == list(soak.COLUMNS)
    assert all(min(line[name] for name in soak.HELD if name not in ("cache_mib", "worker_mib")) > 0 for line in lines)
    assert not any(seen.failure for seen in everybody)
    soak.plot(tmp_path / "soak.csv", tmp_path / "soak.png", "a soak")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    await server.empties()


def test_a_line_that_climbs_is_seen_and_its_beginning_is_not() -> None:
    def gained(values: list[float]) -> float:
        return soak.trend([{"front_mib": value} for value in values], "front_mib")["gained"]

    assert gained([50.0] * 10 + [80.0] * 50) == 0
    assert gained([80.0 + index for index in range(60)]) == pytest.approx(40, abs=1)


LAUNCHES = """
import sys, time
from server.bench.launch import launched
with launched(model="test-tiny", data_dir=sys.argv[1]) as server:
    server.url()
    print(server.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_benchmark_that_is_ended_takes_its_server_with_it(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHES, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bench:
        assert bench.stdout is not None
        server = int(bench.stdout.readline())
        bench.send_signal(number)
        assert bench.wait(120) != 0
    assert not Path(f"/proc/{server}").exists()
