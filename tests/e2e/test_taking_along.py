"""Promise: the page's other features work: a tour and back, exports, two policies side by side, waiting in line."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import av
import pytest
from playwright.async_api import Download, WebSocketRoute

from tests.e2e.test_browser import Visit, browser, visit

__all__ = ["browser", "visit"]  # fixtures
pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = "a sunny meadow, a red house"
LATER = "a moonlit meadow, a red house"


def told(visit: Visit) -> dict[str, dict[int, tuple[Any, ...]]]:
    """For each stream of the page, by chunk: its prompt, the camera after it, the bytes of its video."""
    streams: dict[str, dict[int, tuple[Any, ...]]] = defaultdict(dict)
    for chunk in visit.said("video.chunk_metadata"):
        stats = chunk["stats"]
        streams[chunk["request_id"]][chunk["transport_chunk_index"]] = (
            stats["prompt"],
            stats["camera"]["offset"],
            chunk["byte_length"],
        )
    return dict(streams)


async def saved(download: Download, folder: Path) -> Path:
    path = folder / download.suggested_filename
    await download.save_as(path)
    return path


async def test_a_tour_comes_back_and_the_scene_is_taken_along(visit: Visit, tmp_path: Path) -> None:
    """Before and after are shown side by side; the video (prompts as chapters), the still and the link contain the
    scene."""
    page = visit.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.url += f"#prompt={WORDS}&seed=7"
    await visit.open()
    await visit.phase("ready")
    assert await page.is_disabled("#tour") and await page.is_hidden("#along")
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    await page.fill("#prompt", LATER)
    await page.press("#prompt", "Enter")
    await visit.chunk_where(lambda stats: stats["prompt"] == LATER)
    await page.click("#tour")
    assert await page.is_disabled("#tour"), "one tour at a time"
    await page.wait_for_selector("#tour-pictures:not([hidden])")
    assert "Back after 6 s" in await page.inner_text("#tour-words")
    (stream,) = told(visit).values()
    offsets = [offset for _, offset, _ in stream.values()]
    assert max(offsets) > 200 and offsets[-1] == 0, "it was far away and is back to the pixel"
    for name in ("before", "farthest", "after"):
        assert await page.evaluate(f"document.querySelector('#tour-{name}').width") > 0
    await visit.picture("desktop_tour")

    await page.click("#along summary")
    await page.click("#take-link")
    await page.wait_for_selector("#along-note >> text=Link copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    async with page.expect_download() as still:
        await page.click("#take-still")
    assert (await saved(await still.value, tmp_path)).read_bytes().startswith(b"\x89PNG")
    async with page.expect_download() as video:
        await page.click("#take-video")
    film = await saved(await video.value, tmp_path)
    assert film.name == "pafu-7.mp4"
    with av.open(str(film)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == [WORDS, LATER]
        assert sum(1 for _ in container.decode(video=0)) >= 16 * 6
    await visit.picture("desktop_taking_along")
    await page.click("#stop")
    await visit.phase("ready")
    assert "seed=7" in link and LATER.split()[1] in link, "words, seed and what was changed"
    assert visit.problems == []


async def test_two_policies_play_side_by_side_and_take_the_same_changes(visit: Visit) -> None:
    page = visit.page
    await page.set_viewport_size({"width": 1280, "height": 720})
    await visit.open()
    await visit.phase("ready")
    await page.click("text=Model and memory")
    await page.select_option("#rival-policy", "window")
    await page.press("#prompt", "Enter")
    await page.wait_for_function("rival.currentTime > 1 && picture.currentTime > 1")
    assert await page.inner_text("#rival-name") == "window"
    await page.wait_for_function("document.querySelector('#own-name').textContent")
    await page.keyboard.down("ArrowRight")
    moved = lambda: [s for s in told(visit).values() if any(offset for _, offset, _ in s.values())]  # noqa: E731
    await visit.until(lambda: len(moved()) == 2)
    await page.keyboard.up("ArrowRight")
    one, two = moved()
    both = one.keys() & two.keys()
    assert len(both) > 3
    assert [one[i][:2] for i in both] == [two[i][:2] for i in both], "the same words and camera at the same chunks"
    await page.wait_for_function("Math.abs(rival.currentTime - picture.currentTime) < 0.5")
    await page.evaluate("scrollTo(0, 0)")
    await visit.picture("laptop_two_policies")
    await page.press("#stage", " ")
    await page.wait_for_function("rival.paused && picture.paused")
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await visit.sideways() == 0
    await visit.picture("phone_two_policies")
    await page.set_viewport_size({"width": 740, "height": 360})
    assert await visit.sideways() == 0
    await visit.picture("phone_on_its_side_two_policies")
    await page.click("#stop")
    await page.wait_for_function("!document.body.classList.contains('comparing')")
    assert visit.problems == []


async def test_without_a_second_place_the_first_stream_continues_and_the_page_says_so(visit: Visit) -> None:
    sockets: list[WebSocketRoute] = []

    async def route(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) == 1:
            socket.connect_to_server()
        else:
            socket.on_message(lambda _: socket.send('{"type": "session.queued", "position": 1, "queue_depth": 1}'))

    page = visit.page
    await page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    await page.click("text=Model and memory")
    await page.select_option("#rival-policy", "window")
    await page.press("#prompt", "Enter")
    await page.wait_for_selector("#trouble >> text=There is no place for a second stream")
    await visit.frames(24)
    await visit.status("Live")
    assert len(sockets) == 2 and visit.problems == []


async def test_a_damaged_link_is_named_and_waiting_is_told_in_seconds(visit: Visit) -> None:
    page = visit.page
    visit.url += f"#prompt={WORDS}&seed=7&log=[1&until=4&model=another"
    await visit.open()
    await visit.phase("ready")
    await page.wait_for_selector("#trouble >> text=made with another model")
    waits = """async (event) => { const m = await import('./state.js');
      const events = [{type: 'warm'}, {type: 'start', prompt: 'a'}, {type: 'inLine', ...event}];
      return m.view(events.reduce(m.reduce, m.opened()), 'a').wait }"""
    line = "All places are taken. You are number 3 in line"
    assert await page.evaluate(waits, {"position": 3, "seconds": 41.6}) == f"{line}, probably for about 42 s."
    assert await page.evaluate(waits, {"position": 3}) == f"{line}."
    await page.press("#prompt", "Enter")
    await page.wait_for_selector("#trouble >> text=This link is damaged")
    await visit.frames(12)
    assert visit.problems == []
