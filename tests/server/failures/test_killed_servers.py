"""Promise: kill -9 of server or worker during a job loses nothing and does nothing twice.

These tests kill at chosen moments; tests/soak/kill_jobs.py kills hundreds of times at random ones.
"""

from __future__ import annotations

import io
import os
import signal

import av

CHUNKS = 9


async def test_a_job_survives_its_servers_and_their_workers(killable, tmp_path) -> None:
    server = killable(job_lease_seconds=2.0)
    order = {"prompt": "sleep", "num_frames": 12 * CHUNKS, "seed": 1}
    made = (await server.ask("POST", "/v1/videos", json=order)).json()
    path, progress = f"/v1/videos/{made['id']}", 0
    for victim in ("server", "worker", "server"):
        progress = (await server.until(path, lambda video: video["progress"] > progress))["progress"]  # noqa: B023
        if victim == "worker":
            health = await server.until("/health", lambda health: health["workers"][0]["pid"])
            os.kill(health["workers"][0]["pid"], signal.SIGKILL)
        else:
            server.restart()
    assert (await server.until(path, lambda video: video["status"] in ("completed", "failed")))["status"] == "completed"
    folder = tmp_path / "videos" / made["id"]
    parts = sorted(file.stem.split("-") for file in folder.glob("*.m4s"))
    assert [int(number) for number, _ in parts] == list(range(CHUNKS)), "a chunk was made twice, or never"
    assert len({fence for _, fence in parts}) == 4, "each who went on left chunks under his own claim"
    assert len(list(folder.glob("*video.mp4"))) == 1 and not list(folder.glob("*.part"))
    film = (await server.ask("GET", f"{path}/content")).content
    with av.open(io.BytesIO(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12 * CHUNKS
