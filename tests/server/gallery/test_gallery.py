"""Promise: a server generates each starting point's animated thumbnail once, while there are no viewers, and delays no
viewer; a server that cannot lists prompts and seeds only."""

from __future__ import annotations

import asyncio
import io

import httpx
import pytest
from PIL import Image, ImageSequence

from model.spec import TEST_TINY
from server.gallery import painter
from server.gallery.scenes import scenes_of

PATIENCE = 120.0


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painter, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(painter, "POLL_SECONDS", 0.02)


async def listed(server) -> list[dict]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        return (await client.get("/v1/gallery")).json()["data"]


async def all_painted(server) -> list[dict]:
    async with asyncio.timeout(PATIENCE):
        while not all(point["loop"] for point in await listed(server)):
            await asyncio.sleep(0.05)
    return await listed(server)


async def picture(server, path: str) -> tuple[httpx.Response, Image.Image]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        reply = await client.get(path)
    return reply, Image.open(io.BytesIO(reply.content))


async def test_thumbnails_move_and_are_painted_once_for_these_weights(serve, tmp_path) -> None:
    server = await serve(gallery=True)
    points = await all_painted(server)
    assert [point["prompt"] for point in points] == [scene.prompt for scene in scenes_of(TEST_TINY)]
    for point in points:
        reply, image = await picture(server, point["loop"])
        assert reply.headers["content-type"] == "image/webp" and "immutable" in reply.headers["cache-control"]
        assert image.n_frames > 20 and image.info["loop"] == 0
        shown = {frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(image)}
        assert len(shown) > 5, "it moves"
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "gallery").iterdir()}
    assert len(files) == len(points)
    await server.stop()
    again = await serve(gallery=True)
    assert await all_painted(again) == points
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "gallery").iterdir()} == files


async def test_painting_stops_at_once_when_somebody_comes(serve, monkeypatch) -> None:
    """The pattern is slow here, so a thumbnail takes long. There is one place, and the viewer gets it at once."""
    slow = scenes_of(TEST_TINY)[0].__class__("a bar that lets it sleep", 1, 0)
    monkeypatch.setattr(painter, "scenes_of", lambda spec: (slow,))
    server = await serve(gallery=True, max_sessions=1)
    await server.engine.settled()
    async with asyncio.timeout(PATIENCE):
        while not server.engine.status().sessions:
            await asyncio.sleep(0.01)
        viewer = await server.watch(num_frames=13)
    assert len(viewer.pictures()) == 13 and "session.queued" not in {message["type"] for message in viewer.messages}
    async with asyncio.timeout(PATIENCE):
        while not server.engine.status().sessions:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("why", ["switched off", "too slow", "no room"])
async def test_a_server_without_capacity_paints_nothing_and_tells_words_and_seeds(serve, monkeypatch, why) -> None:
    if why == "too slow":
        monkeypatch.setattr(painter, "MOST_SECONDS", -1.0)
    room = {"cache_room_bytes": 1} if why == "no room" else {}
    server = await serve(gallery=why != "switched off", **room)
    await server.engine.settled()
    loop = server.front.gallery._painter._loop
    if loop is not None:
        await asyncio.wait_for(asyncio.shield(loop), PATIENCE)  # it gives up by itself
    points = await listed(server)
    assert [(point["loop"], point["seed"]) for point in points] == [(None, 7)] * len(points) and points


async def test_a_name_that_is_none_is_not_found(serve) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        for name in ("0" * 24, "..%2F..%2Fetc", "x"):
            assert (await client.get(f"/v1/gallery/{name}")).status_code == 404
