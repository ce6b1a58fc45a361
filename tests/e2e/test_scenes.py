"""Promise: a scene can be exported and restored: its link and its job give the same pictures, a loop and a frame on
another page show them, and limits of a browser or a link are explained. All tests share one server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image, ImageSequence
from playwright.async_api import Browser, BrowserContext, WebSocketRoute

from server.bench.launch import launched
from tests.e2e.conftest import PATIENT
from tests.e2e.test_browser import PATIENCE, Visit, browser
from tests.e2e.test_taking_along import told

__all__ = ["browser"]  # fixture
pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS, LATER = "a sunny meadow, a red house", "a moonlit meadow, a red house"

# Chunks of 0.75 s come at this share of real time, give or take 15 %, for a minute: stops and mean pace after 8 s.
STALLS = """async (supply) => {
  const { Pace } = await import("./client/pace.js");
  const pace = new Pace();
  let [lead, next, rate, stops, chance] = [0, 0, 1, 0, 1], started = false, playing = false;
  const rates = [];
  for (let tick = 0; tick < 3000; tick++) {
    const now = tick / 50;
    if (now >= next && (supply < 1 || lead < 1.25)) {
      pace.came(now, 0.75, lead);
      lead += 0.75;
      chance = (chance * 16807) % 2147483647;
      next = now + (0.75 / supply) * (0.85 + (0.3 * chance) / 2147483647);
    }
    if (!started && now > 1.5) started = true;
    if (started && tick % 10 === 0) {
      rate = pace.tick(lead);
      if (now > 8) rates.push(rate);
    }
    if (started && !playing && lead > 0.05) playing = true;
    if (playing && (lead -= rate / 50) <= 0) [lead, playing, stops] = [0, false, stops + (now > 8)];
  }
  return [stops, rates.reduce((sum, each) => sum + each) / rates.length];
}"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A page of another origin, with this file at this port, since browsers do not let an invented one connect to
    loopback."""
    folder = tmp_path_factory.mktemp("elsewhere")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        yield folder / "index.html", site.server_port
        site.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, elsewhere: tuple[Path, int]) -> Iterator[str]:
    allowed = f"http://localhost:{elsewhere[1]}"
    with launched(**PATIENT, data_dir=tmp_path_factory.mktemp("data"), allowed_origins=allowed) as process:
        process.wait_ready()
        yield process.url()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(bypass_csp=True, viewport={"width": 1280, "height": 860})
    context.set_default_timeout(PATIENCE)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    await context.close()


def pictures(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


async def saved(visit: Visit, button: str) -> bytes:
    async with visit.page.expect_download() as download:
        await visit.page.click(button)
    return Path(await (await download.value).path()).read_bytes()


async def test_a_link_and_a_job_bring_the_same_pictures_as_were_seen(context: BrowserContext, server: str) -> None:
    """Prompt and camera change during the stream. The link, opened elsewhere, gives the same pictures; the job has them
    and ten seconds more."""
    visit = Visit(await context.new_page(), f"{server}#prompt={WORDS}&seed=7")
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    assert await page.input_value("#seed") == "7", "the seed is seen"
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    await page.fill("#prompt", LATER)
    await page.press("#prompt", "Enter")
    await visit.chunk_where(lambda stats: stats["prompt"] == LATER)
    await page.keyboard.press("ArrowRight")
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] > 0)
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] == 0)
    await visit.frames(24 + int(await page.evaluate("picture.getVideoPlaybackQuality().totalVideoFrames")))
    await page.press("#stage", " ")
    await page.click("#along summary")
    await page.click("#take-link")
    await page.wait_for_selector("#along-note >> text=Link copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    said = parse_qs(urlsplit(link).fragment)
    assert said["model"] == ["test-tiny"] and said["by"] == ["random-0"] and said["pafu"]
    film = pictures(await saved(visit, "#take-video"))

    loop = Image.open(io.BytesIO(await saved(visit, "#take-loop")))
    shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(loop)]
    half = len(shown) // 2
    assert loop.format == "WEBP" and loop.info["loop"] == 0 and half > 8
    assert all(np.array_equal(shown[half - n], shown[half + n]) for n in range(1, half)), "there and back"

    job = pictures(await saved(visit, "#take-job"))
    assert len(job) >= 10 * 16 + 12
    seen = min(len(film), len(job))
    assert np.array_equal(job[:seen], film[:seen]), "the job makes what was seen"

    other = Visit(await context.new_page(), link)
    await other.open()
    await other.phase("ready")
    assert await other.page.is_hidden("#trouble")
    await other.page.press("#prompt", "Enter")
    (first,) = told(visit).values()
    await other.until(lambda: told(other) and len(next(iter(told(other).values()))) >= len(first))
    (again,) = told(other).values()
    assert {chunk: again[chunk] for chunk in first} == first, "words, camera and bytes of every chunk"
    await other.page.wait_for_function(f"document.querySelector('#prompt').value === '{LATER}'")
    await other.page.click("#along summary")
    assert np.array_equal(pictures(await saved(other, "#take-video"))[: len(film)], film)
    await page.click("#take-window")
    await page.wait_for_function(
        "document.pictureInPictureElement || document.querySelector('#along-note').textContent.includes('small window')"
        if await page.is_visible("#take-window")
        else "true"
    )
    for each in (visit, other):
        assert each.problems == []
        await each.page.close()


@pytest.mark.parametrize(
    ("made", "title"),
    [
        ("model=another", "made with another model"),
        ("model=test-tiny&by=0123456789ab", "made with other weights"),
        ("model=test-tiny&by=random-0&pafu=0.0.1", "made with another version of Pafu"),
    ],
)
async def test_a_link_of_another_maker_says_so(context: BrowserContext, server: str, made: str, title: str) -> None:
    page = await context.new_page()
    await page.goto(f"{server}#prompt={WORDS}&seed=7&{made}")
    await page.wait_for_selector(f"#trouble >> text={title}")
    await page.close()


async def test_slow_chunks_play_slowly_instead_of_stop_and_go(context: BrowserContext, server: str) -> None:
    """The line lets one chunk of 0.75 s through every 1.2 s: once the player has found its pace, it does not stall."""
    chunks: asyncio.Queue[list[str | bytes]] = asyncio.Queue()

    async def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        held: list[str | bytes] = []

        def forward(message: str | bytes) -> None:
            if held or (isinstance(message, str) and json.loads(message)["type"] == "video.chunk_metadata"):
                held.append(message)
                if isinstance(message, bytes):
                    chunks.put_nowait(held[:])
                    held.clear()
            else:
                socket.send(message)

        async def pace() -> None:
            while True:
                for message in await chunks.get():
                    socket.send(message)
                await asyncio.sleep(1.2)

        server.on_message(forward)
        tasks.append(asyncio.create_task(pace()))

    tasks: list[asyncio.Task[None]] = []
    visit = Visit(await context.new_page(), server)
    page = visit.page
    await page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    await page.press("#prompt", "Enter")
    await page.wait_for_function("picture.currentTime > 3")
    await page.evaluate("window.stops = 0; picture.addEventListener('waiting', () => { stops++ })")
    await page.wait_for_function("picture.currentTime > 9")
    stops, rate = await page.evaluate("[stops, picture.playbackRate]")
    slow = await page.inner_text("#slow")
    assert stops < 8, "eight chunks came meanwhile; on a busy machine they come even later than the line lets them"
    stalls = [await page.evaluate(STALLS, supply) for supply in (0.4, 0.6, 0.8, 0.95, 1.5)]
    assert [count for count, _ in stalls] == [0] * 5, "with a steady supply it never stops, after it has found its pace"
    assert [pace for _, pace in stalls] == [pytest.approx(pace, abs=0.05) for pace in (0.4, 0.6, 0.8, 0.95, 1.0)]
    assert rate < 0.9 and "slow motion" in slow
    await visit.picture("desktop_slow_motion")
    for task in tasks:
        task.cancel()
    assert visit.problems == []
    await page.close()


async def test_another_page_shows_a_scene_in_a_frame_when_the_server_allows_it(
    browser: Browser, server: str, elsewhere: tuple[Path, int]
) -> None:
    """With the page's own embedding code, under the policy that browsers enforce; on other pages the frame stays
    empty."""
    context = await browser.new_context(viewport={"width": 900, "height": 700})
    page = await context.new_page()
    await page.goto(server)
    snippet = "async (url) => (await import('./takeaway.js')).embedCode(url)"
    index, port = elsewhere
    index.write_text(f"<body>{await page.evaluate(snippet, f'{server}/#prompt=a+mill&seed=3')}</body>")
    for host, allowed in (("localhost", True), ("127.0.0.1", False)):
        await page.goto(f"http://{host}:{port}/")
        frame = await (await page.wait_for_selector("iframe")).content_frame()
        assert frame is not None
        if not allowed:
            await page.wait_for_timeout(500)
            assert await frame.query_selector("#prompt") is None
            continue
        await frame.wait_for_selector("body.embedded[data-phase=ready]")
        assert await frame.is_hidden(".masthead")
        await frame.press("#prompt", "Enter")
        async with asyncio.timeout(PATIENCE / 1000):  # its policy forbids wait_for_function
            while await frame.evaluate("document.querySelector('video').currentTime") <= 0.5:
                await asyncio.sleep(0.05)
    await context.close()


async def test_what_a_browser_lacks_is_told(browser: Browser, server: str) -> None:
    """No JavaScript; no Media Source Extensions; a recording longer than memory."""
    plain = await browser.new_context(java_script_enabled=False)
    page = await plain.new_page()
    await page.goto(server)
    assert "needs JavaScript" in await page.inner_text("noscript .trouble, .trouble")
    assert await page.is_hidden("#status")
    await plain.close()

    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    await page.add_init_script("delete window.MediaSource; delete window.ManagedMediaSource")
    await page.goto(server)
    await page.wait_for_selector("#trouble >> text=This browser cannot play the stream")
    recording: Any = await page.evaluate("""async () => { const { Reel } = await import('./reel.js');
      const reel = new Reel(2500);
      for (let at = 0; at < 5; at++) reel.add(new ArrayBuffer(1000), 2, `words ${at}`);
      return [reel.lost, reel.seconds, reel.chapters, reel.mp4().size] }""")
    assert recording == [6, 4, [{"at": 6, "title": "words 3"}, {"at": 8, "title": "words 4"}], 2000]
    await context.close()
