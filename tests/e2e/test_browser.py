"""Promise: in a real browser the page plays, can be steered by prompt, keys and touch, and explains failures.

Chromium comes from PAFU_TEST_CHROMIUM or the usual places. Without it the tests are skipped, unless
PAFU_TEST_REQUIRE_BROWSER=1. Screenshots are stored in PAFU_TEST_ARTIFACTS (tests/e2e/artifacts).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, WebSocket, WebSocketRoute, async_playwright

from tests.cable import Cable, cable_to

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one browser for all tests

PATIENCE = 300_000  # ms until a wait is given up; nothing is measured with it
ARTIFACTS = Path(os.environ.get("PAFU_TEST_ARTIFACTS") or Path(__file__).with_name("artifacts"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FRAMES_SHOWN = "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
NOTE_CHUNKS = """
window.chunks = []; // what the page's session gave to its player, in order
const dispatch = EventTarget.prototype.dispatchEvent;
EventTarget.prototype.dispatchEvent = function (event) {
  if (event.type === "chunk" && !(this instanceof HTMLElement)) chunks.push(event.detail.metadata);
  return dispatch.call(this, event);
};"""
FPS = 16
HAS_EVERY_PICTURE = f"""() => {{
  const {{ buffered }} = document.querySelector("video");
  const seconds = chunks.reduce((sum, chunk) => sum + chunk.num_frames, 0) / {FPS};
  return buffered.length === 1 && Math.abs(buffered.end(0) - seconds) < 0.5 / {FPS};
}}"""


def chromium() -> str:
    found = os.environ.get("PAFU_TEST_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
    )
    if found is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_BROWSER") == "1" else pytest.skip
        no("no Chromium; install Debian's chromium or set PAFU_TEST_CHROMIUM")
    return str(found)


@dataclass
class Visit:
    """A page with everything that it received and sent.

    ``heard`` is what arrived on the wire; if a test cuts the line, the page may have received less. ``chunks()`` are
    the chunks that the page received.
    """

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    looked_at: int = 0  # of those heard, by chunk_where

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        self.requests.append(socket.url)
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))
        socket.on("framereceived", lambda frame: isinstance(frame, str) and self.heard.append(json.loads(frame)))

    async def open(self) -> None:
        await self.page.add_init_script(NOTE_CHUNKS)
        await self.page.goto(self.url)

    async def phase(self, name: str) -> None:
        await self.page.wait_for_selector(f"body[data-phase={name}]")

    async def status(self, text: str) -> None:
        await self.page.wait_for_function(f"document.querySelector('#status').textContent === '{text}'")

    async def frames(self, count: int) -> None:
        """Wait until the browser has decoded at least ``count`` pictures of the running stream."""
        await self.page.wait_for_function(f"{FRAMES_SHOWN} >= {count}")

    async def chunks(self) -> list[int]:
        """The indices of the chunks that the page received whole, in order."""
        return list(await self.page.evaluate("chunks.map((chunk) => chunk.transport_chunk_index)"))

    async def has_every_picture(self) -> None:
        """Wait until the browser has all pictures of the received chunks, each once and without gaps."""
        indices = await self.chunks()
        assert indices == list(range(len(indices)))
        await self.page.wait_for_function(HAS_EVERY_PICTURE)

    async def chunk_where(self, holds: Any) -> dict[str, Any]:
        """The statistics of the next chunk, after the last one found, for which ``holds(stats)``.

        It does not wait for new messages only: on a busy machine the chunk may arrive before the key press returns.
        """

        def found() -> dict[str, Any] | None:
            while self.looked_at < len(self.heard):
                message = self.heard[self.looked_at]
                self.looked_at += 1
                if message["type"] == "video.chunk_metadata" and holds(message["stats"]):
                    return dict(message["stats"])
            return None

        return dict(await self.until(found))

    async def until(self, answer: Callable[[], Any]) -> Any:
        """The result of ``answer()`` as soon as it is truthy."""
        give_up = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < give_up:
            if got := answer():
                return got
            await asyncio.sleep(0.05)
        raise AssertionError(f"it did not come; the last message was {self.heard[-1]}")

    async def sideways(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    async def picture(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f"{name}.png")

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["type"] == kind]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, live_server: str) -> AsyncIterator[Visit]:
    page = await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 860})
    yield Visit(page, live_server)
    await page.close()


@pytest_asyncio.fixture(loop_scope="module")
async def cable(live_server: str) -> AsyncIterator[Cable]:
    """A connection to the server that the test can cut."""
    async with cable_to(int(live_server.rpartition(":")[2])) as cable:
        yield cable


@pytest_asyncio.fixture(loop_scope="module")
async def phone_visit(browser: Browser, live_server: str) -> AsyncIterator[Visit]:
    phone = await browser.new_context(
        bypass_csp=True, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    yield Visit(await phone.new_page(), live_server)
    await phone.close()


async def test_page_plays_takes_new_words_and_camera_keys_and_stops(visit: Visit) -> None:
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    await page.fill("#prompt", "a sunny meadow, a red house in the middle")
    await page.press("#prompt", "Enter")
    await visit.frames(48)
    (model,) = (await (await page.request.get(f"{visit.url.rstrip('/')}/v1/models")).json())["data"]
    size = await page.evaluate("(v => [v.videoWidth, v.videoHeight])(document.querySelector('video'))")
    assert size == [model["width"], model["height"]]
    await visit.picture("desktop_playing")

    words = "a snowy night, a red house in the middle"
    await page.fill("#prompt", words)
    await page.press("#prompt", "Enter")
    await visit.chunk_where(lambda stats: stats["prompt"] == words)
    assert visit.said("session.interaction.queued") and visit.said("session.interaction.applied")
    note = "document.querySelector('#prompt-note').textContent"
    await page.wait_for_function(f"{note} === 'The picture shows the new prompt.'")

    await page.keyboard.down("ArrowRight")  # Enter has left the prompt: the arrows are the camera's
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] > 0)
    await page.keyboard.up("ArrowRight")
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] == 0)
    await visit.frames(int(await page.evaluate(FRAMES_SHOWN)) + 24)
    await visit.picture("desktop_after_night_and_pan")

    for name in ("fps", "chunk", "lead", "tokens", "first"):
        await page.wait_for_function(f"/\\d/.test(document.querySelector('[data-stat={name}]').textContent)")
    await page.click("#stop")
    await visit.phase("ready")
    assert visit.said("session.done")
    assert visit.problems == []


async def test_page_reports_its_playhead_and_asks_nobody_else(visit: Visit) -> None:
    await visit.open()
    await visit.phase("ready")
    await visit.page.click("#begin")
    await visit.frames(24)

    def positions() -> list[float]:
        return [m["position_seconds"] for m in visit.sent if m["type"] == "session.playback"]

    assert await visit.until(lambda: positions()[-1:] > [0.5])
    told = positions()  # where the pictures run out, the last one counts as seen a moment before it was
    assert all(after > before - 1 / FPS for before, after in pairwise(told)), told
    here = visit.url.split("://")[1].rstrip("/")
    assert [url for url in visit.requests if here not in url and not url.startswith("blob:")] == []


async def test_a_short_tap_on_an_arrow_moves_the_camera(visit: Visit) -> None:
    """Changes take effect between chunks: press and release within one chunk must not cancel each other."""
    await visit.open()
    await visit.phase("ready")
    await visit.page.fill("#prompt", "a meadow, a red house in the middle")
    await visit.page.press("#prompt", "Enter")
    await visit.frames(12)
    await visit.page.keyboard.press("ArrowLeft")
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] < 0)
    stats = await visit.chunk_where(lambda stats: stats["camera"]["speed"] == 0)
    assert stats["camera"]["offset"] < 0, "it looked to the left for a chunk"


async def test_light_buttons_change_the_words_and_the_stream(visit: Visit) -> None:
    await visit.open()
    await visit.phase("ready")
    await visit.page.fill("#prompt", "a sunny meadow, a red house in the middle")
    await visit.page.press("#prompt", "Enter")
    await visit.frames(12)
    await visit.page.click("button[data-light=night]")
    stats = await visit.chunk_where(lambda stats: "sunny" not in stats["prompt"])
    assert stats["prompt"] == "a moonlit meadow, a red house in the middle" == await visit.page.input_value("#prompt")
    assert await visit.page.get_attribute("button[data-light=night]", "aria-pressed") == "true"
    focused = "document.activeElement.dataset.light"
    assert await visit.page.evaluate(focused) == "night", "a keyboard user stays on the button"


async def test_page_plays_on_a_phone_without_sideways_scroll(phone_visit: Visit) -> None:
    visit = phone_visit
    await visit.open()
    await visit.phase("ready")
    assert await visit.sideways() == 0
    await visit.page.evaluate("scrollTo(0, 300)")
    await visit.page.tap("#send")
    await visit.frames(12)
    assert await visit.sideways() == 0
    top = await visit.page.evaluate("picture.getBoundingClientRect().top")
    assert top > -1, "starting brings the picture into view"
    await visit.picture("phone_playing")
    for details in await visit.page.query_selector_all("details"):
        await details.evaluate("element => { element.open = true }")
    assert await visit.sideways() == 0, "nor with everything open"
    small = await visit.page.evaluate(
        """[...document.querySelectorAll('a, button, summary, select, textarea, input')]
           .filter((b) => b.checkVisibility() && b.getBoundingClientRect().height < 44).map((b) => b.outerHTML)"""
    )
    assert small == [], "every control is large enough for a finger"


async def test_keyboard_alone_is_enough(visit: Visit) -> None:
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # the skip link
    await page.wait_for_function("location.hash === '#prompt'")
    await page.keyboard.press("/")
    await page.wait_for_function("document.activeElement.id === 'prompt'")
    await page.keyboard.press("Control+A")
    await page.keyboard.type("a desert at sunset, a white tower on the left")
    await page.keyboard.press("Enter")
    await visit.frames(12)
    await page.wait_for_function("document.activeElement.id === 'stage'")
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    await page.keyboard.press("s")
    await visit.phase("ready")
    start = next(message for message in visit.sent if message["type"] == "session.start")
    assert start["prompt"] == "a desert at sunset, a white tower on the left"


async def test_the_space_bar_pauses_and_goes_on_where_it_was(visit: Visit, cable: Cable) -> None:
    """Nothing is generated meanwhile, prompt changes wait, and a broken connection does not end the pause."""
    page = visit.page
    visit.url = cable.url
    await visit.open()
    await visit.phase("ready")
    await page.fill("#prompt", "a sunny meadow, a red house")
    await page.press("#prompt", "Enter")
    await visit.phase("live")
    await visit.frames(12)
    await page.keyboard.press(" ")
    await visit.status("Paused")
    await page.evaluate("picture.dispatchEvent(new Event('waiting'))")  # of the moment before, on a slow machine
    assert await page.inner_text("#status") == "Paused" and await page.evaluate("picture.paused")
    await visit.until(lambda: visit.said("session.paused"))
    stood = await page.evaluate("picture.currentTime")
    cable.cut()
    await visit.until(lambda: len(visit.said("session.paused")) == 2)
    await page.fill("#prompt", "a moonlit meadow, a red house")
    await page.press("#prompt", "Enter")
    await page.wait_for_function("document.querySelector('#prompt-note').textContent.includes('when you resume')")
    assert await page.evaluate("picture.paused && picture.currentTime") == stood
    assert "moonlit" not in str(visit.said("video.chunk_metadata"))
    await visit.picture("desktop_paused")
    await page.click("#begin")
    await visit.chunk_where(lambda stats: "moonlit" in stats["prompt"])
    await page.wait_for_function(f"!picture.paused && picture.currentTime > {stood} + 1")
    assert await page.inner_text("#pause") == "Pause" and await page.is_hidden("#begin")
    await visit.has_every_picture()
    assert visit.problems == []


async def test_every_control_has_a_name(visit: Visit) -> None:
    await visit.open()
    await visit.phase("ready")
    nameless = await visit.page.evaluate(
        """[...document.querySelectorAll('button, textarea, input, select')].filter((element) =>
             !(element.getAttribute('aria-label') || element.textContent.trim() || element.labels?.length))
           .map((element) => element.outerHTML)"""
    )
    assert nameless == []


async def test_page_waits_for_a_cold_server_and_starts_as_soon_as_it_is_warm(visit: Visit) -> None:
    page = visit.page
    cold = True

    async def readyz(route: Any) -> None:
        if not cold:
            return await route.continue_()
        await route.fulfill(status=503, json={"status": "warming", "reason": "the worker loads its weights"})

    await page.route("**/readyz", readyz)
    await visit.open()
    await page.wait_for_selector("text=The worker loads its weights")
    await page.fill("#prompt", "a meadow, a red house in the middle")
    await page.press("#prompt", "Enter")
    assert [m for m in visit.sent if m["type"] == "session.start"] == []
    cold = False
    await visit.frames(12)


CONFIG = {"width": 64, "height": 64, "extra_params": {"cache": {"policy": "window", "budget_latents": 6}}}
START = {"type": "video.start", "mime": 'video/mp4; codecs="avc1.64001f"', "config": CONFIG}


async def refuse(socket: WebSocketRoute) -> None:
    error = {"type": "error", "code": "session_rejected", "message": "4 of 4 places are taken", "param": None}
    socket.on_message(lambda _: socket.send(json.dumps(error)))


async def vanish(socket: WebSocketRoute) -> None:
    async def answer(_: Any) -> None:
        socket.send(json.dumps(START))
        await socket.close(code=1012)

    socket.on_message(answer)


async def speak_another_codec(socket: WebSocketRoute) -> None:
    start = {**START, "mime": 'video/mp4; codecs="xyz"'}
    socket.on_message(lambda _: socket.send(json.dumps(start)))


@pytest.mark.parametrize(
    ("behave", "title", "detail"),
    [
        (refuse, "All places are taken", "4 of 4 places are taken"),
        (vanish, "The model stopped", ""),
        (speak_another_codec, "This browser cannot play the stream", "xyz"),
    ],
)
async def test_a_stream_that_fails_is_explained_and_can_be_started_again(
    visit: Visit, behave: Any, title: str, detail: str
) -> None:
    page = visit.page
    broken = True

    async def route(socket: WebSocketRoute) -> None:
        if broken:
            await behave(socket)
        else:
            socket.connect_to_server()

    await page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    visit.requests.clear()
    await page.press("#prompt", "Enter")
    await page.wait_for_selector(f"[role=alert] >> text={title}")
    assert detail in await page.inner_text("#trouble-detail")
    broken = False
    await visit.phase("ready")
    assert any(url.endswith("/readyz") for url in visit.requests), "play is offered when the server is ready again"
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    assert await page.is_hidden("#trouble")


async def test_a_dropped_connection_is_made_again_and_the_picture_goes_on(visit: Visit, cable: Cable) -> None:
    """No picture is missing or repeated; the page explains, and prompt changes sent meanwhile arrive."""
    page = visit.page
    visit.url = cable.url
    await visit.open()
    await visit.phase("ready")
    await page.fill("#prompt", "a sunny meadow, a red house")
    await page.press("#prompt", "Enter")
    await visit.frames(24)
    cable.plugged = False
    cable.cut()
    await visit.status("Reconnecting")
    await page.fill("#prompt", "a moonlit meadow, a red house")
    await page.press("#prompt", "Enter")
    cable.plugged = True
    await visit.chunk_where(lambda stats: "moonlit" in stats["prompt"])
    await visit.frames(24 + 12 * 6)
    await visit.status("Live")
    await visit.has_every_picture()
    assert [start["resumed"] for start in visit.said("video.start")] == [False, True]
    assert await page.is_hidden("#trouble") and visit.problems == []


async def test_a_model_that_is_started_again_is_told(visit: Visit) -> None:
    said = (START, {"type": "session.interrupted", "session_id": "x", "reason": "worker lost"})

    async def route(socket: WebSocketRoute) -> None:
        socket.on_message(lambda _: [socket.send(json.dumps(message)) for message in said])

    await visit.page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    await visit.page.press("#prompt", "Enter")
    await visit.page.wait_for_selector("#wait-text >> text=the stream continues by itself")
    await visit.status("A moment, please")
    assert await visit.page.is_hidden("#trouble"), "it is no failure of the stream"
    await visit.page.click("#stop")
    await visit.phase("ready")
    assert visit.problems == []


async def test_who_waits_for_a_place_reads_its_position(visit: Visit) -> None:
    async def route(socket: WebSocketRoute) -> None:
        queued = {"type": "session.queued", "position": 2, "queue_depth": 3}
        socket.on_message(lambda _: socket.send(json.dumps(queued)))

    await visit.page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    await visit.page.press("#prompt", "Enter")
    await visit.page.wait_for_selector("#wait-text >> text=number 2 in line")
    await visit.status("Waiting for a place")
    assert await visit.page.is_hidden("#trouble") and visit.problems == []


def zeros(fragment: bytes) -> bytes:
    """Data that cannot be appended."""
    return bytes(len(fragment))


def no_pictures(fragment: bytes) -> bytes:
    """Data that can be appended but not decoded."""
    head = fragment[: fragment.rindex(b"mdat") + 4]
    return head + bytes(len(fragment) - len(head))


@pytest.mark.parametrize("spoil", [zeros, no_pictures])
async def test_broken_fragments_do_not_end_the_picture(visit: Visit, spoil: Callable[[bytes], bytes]) -> None:
    """The decoder is replaced, and gets what was not shown yet and the following fragments.

    The first one fails at the very start, when the server waits for a playhead that no decoder moves.
    """
    page = visit.page
    binaries = 0

    async def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(message: str | bytes) -> None:
            nonlocal binaries
            if isinstance(message, bytes):
                binaries += 1
                message = spoil(message) if binaries in (2, 5) else message
            socket.send(message)

        server.on_message(forward)

    await page.route_web_socket("**/v1/realtime/video", route)
    await visit.open()
    await visit.phase("ready")
    await page.evaluate("window.errors = 0; picture.addEventListener('error', () => { window.errors++ })")
    if spoil is zeros:  # a machine so slow that nothing is played before the error
        await page.evaluate("(play => { picture.play = async () => errors && play.call(picture) })(picture.play)")
    await page.press("#prompt", "Enter")
    await page.wait_for_function("errors > 1")
    await page.wait_for_function("picture.currentTime > 5 && !picture.paused && !picture.error")
    assert await page.evaluate("document.body.dataset.phase") == "live"
    assert visit.problems == []


async def test_a_picture_that_the_browser_paused_goes_on(visit: Visit) -> None:
    await visit.open()
    await visit.phase("ready")
    await visit.page.press("#prompt", "Enter")
    await visit.page.wait_for_function("picture.currentTime > 0.5")
    await visit.page.evaluate("picture.pause()")
    await visit.page.wait_for_function("!picture.paused")
    await visit.frames(int(await visit.page.evaluate(FRAMES_SHOWN)) + 24)
    assert await visit.page.evaluate("document.body.dataset.phase") == "live" and visit.problems == []


async def test_an_empty_prompt_is_answered_on_the_page(visit: Visit) -> None:
    await visit.open()
    await visit.phase("ready")
    await visit.page.fill("#prompt", "   ")
    await visit.page.press("#prompt", "Enter")
    await visit.page.wait_for_selector("[role=alert] >> text=The prompt is empty")
    assert visit.sent == []


async def test_light_edits_read_like_sentences(visit: Visit) -> None:
    await visit.open()
    cases = [
        ("a sunny meadow", "night", "a moonlit meadow"),
        ("a snowy night, a red house", "sunset", "a snowy sunset, a red house"),
        ("a desert at sunset; the camera pans right", "night", "a desert at night; the camera pans right"),
        ("morning in a meadow", "night", "night in a meadow"),
        ("Morning in a meadow", "day", "Day in a meadow"),
        ("a red house in the morning", "sunset", "a red house at sunset"),
        ("a red house.", "night", "a red house, at night"),
        ("", "night", "at night"),
    ]
    edit = "async (cases) => { const m = await import('./prompt.js'); return cases.map((c) => m.withLight(...c)) }"
    assert await visit.page.evaluate(edit, cases) == [expected for *_, expected in cases]
    lights = "async (texts) => { const m = await import('./prompt.js'); return texts.map(m.lightIn) }"
    texts = ["a red house", "dusk over a field", "a night, then morning", "Monday"]
    assert await visit.page.evaluate(lights, texts) == [None, "sunset", "morning", None]


async def test_words_are_inserted_with_the_spaces_a_writer_would_set(visit: Visit) -> None:
    await visit.open()
    cases = [("", "house", 0), ("a red", "house", 5), ("a, tree", "house", 1), ("a  tree", "red", 2)]
    insert = "async (cases) => { const m = await import('./prompt.js'); return cases.map((c) => m.insertWord(...c)) }"
    texts = [edit["text"] for edit in await visit.page.evaluate(insert, cases)]
    assert texts == ["house", "a red house", "a house, tree", "a red tree"]


async def test_a_shared_link_lets_others_look_on(visit: Visit, browser: Browser) -> None:
    """Watchers see the same stream and its prompt, cannot steer it, and are told when it ends."""
    page = visit.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await visit.open()
    await visit.phase("ready")
    await page.fill("#prompt", "a sunny meadow, a red house")
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    await page.click("#share")
    await page.wait_for_selector("text=Link copied")
    link = await page.evaluate("navigator.clipboard.readText()")

    other = Visit(await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 800}), link)
    await other.open()
    await other.phase("live")
    await other.frames(24)
    of_itself = ("session.playback", "session.ping")
    assert [message["type"] for message in other.sent if message["type"] not in of_itself] == ["session.watch"]
    await other.status("Watching")
    assert await other.page.input_value("#prompt") == "a sunny meadow, a red house"
    for control in ("#send", "#lights", "#pan-left", "#examples"):
        assert await other.page.is_hidden(control)
    await other.picture("desktop_looking_on")

    await page.click("#stop")
    await visit.phase("ready")
    await other.page.wait_for_selector("[role=alert] >> text=There is nothing to watch")
    await other.phase("ready")
    assert visit.problems == other.problems == []
    await other.page.click("#own")
    await other.page.wait_for_function("!document.body.classList.contains('watching')")
    await other.page.close()


async def test_the_page_is_driven_by_its_state_alone(visit: Visit) -> None:
    """The view follows from the state: a stall is explained over the picture, and is not green."""
    await visit.open()
    shown = """async (events) => { const m = await import('./state.js');
      const state = events.reduce((state, event) => m.reduce(state, event), m.opened());
      const { status, note, wait, trouble } = m.view(state, 'a mill'); return { status, note, wait, trouble } }"""
    begin = [{"type": "warm"}, {"type": "start", "prompt": "a mill"}, {"type": "firstPicture"}]
    live = await visit.page.evaluate(shown, begin)
    assert live == {"status": "Live", "note": "Change the prompt and press Enter.", "wait": None, "trouble": False}
    starved = await visit.page.evaluate(shown, [*begin, {"type": "starved"}])
    assert starved["status"] == "Waiting for pictures" and "slower than playback" in starved["wait"]
    lost = await visit.page.evaluate(shown, [*begin, {"type": "reconnecting"}, {"type": "starved"}])
    assert lost["trouble"] and "connection broke" in lost["wait"]
    blocked = await visit.page.evaluate(shown, [*begin, {"type": "blocked"}])
    assert blocked["trouble"] and "tap the picture" in blocked["wait"]
    back = await visit.page.evaluate(shown, [*begin, {"type": "reconnecting"}, {"type": "chunk"}, {"type": "playing"}])
    assert back == live
    told = [*begin, {"type": "told", "id": "e1", "prompt": "a tower"}, {"type": "told", "id": "e2", "prompt": "a barn"}]
    half = await visit.page.evaluate(shown, [*told, {"type": "applied", "id": "e1"}])
    both = await visit.page.evaluate(shown, [*told, {"type": "applied", "id": "e1"}, {"type": "applied", "id": "e2"}])
    assert half["note"] == "Sent." and both["note"] == "The picture shows the new prompt."


async def test_prompts_come_back_with_the_arrow_and_keys_with_the_question_mark(visit: Visit) -> None:
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    await page.fill("#prompt", "a meadow, a red mill")
    await page.press("#prompt", "Enter")
    await visit.phase("live")
    await page.fill("#prompt", "a desert")
    await page.press("#prompt", "Enter")
    await page.fill("#prompt", "half a thou")
    await page.press("#prompt", "ArrowUp")
    assert await page.input_value("#prompt") == "a desert"
    await page.press("#prompt", "ArrowUp")
    assert await page.input_value("#prompt") == "a meadow, a red mill"
    await page.press("#prompt", "ArrowDown")
    await page.press("#prompt", "ArrowDown")
    assert await page.input_value("#prompt") == "half a thou"
    await page.press("#stage", "?")
    assert await page.is_visible("#keys-dialog")
    await page.press("#keys-dialog", "Escape")
    await page.wait_for_function("picture.getAttribute('aria-label').includes('the camera is at rest')")


async def test_a_swipe_moves_the_camera(phone_visit: Visit) -> None:
    """Dragging the picture to the left moves the camera right until the finger is lifted; it does not pause."""
    visit = phone_visit
    await visit.open()
    await visit.phase("ready")
    await visit.page.tap("#send")
    await visit.frames(12)
    point = "(type, x) => new PointerEvent(type, {pointerId: 1, pointerType: 'touch', clientX: x, bubbles: true})"
    await visit.page.evaluate("picture.setPointerCapture = () => {}")
    for kind, x in (("pointerdown", 200), ("pointermove", 190), ("pointermove", 150)):
        await visit.page.evaluate(f"([t, x]) => picture.dispatchEvent(({point})(t, x))", [kind, x])
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] > 0)
    await visit.page.evaluate(f"picture.dispatchEvent(({point})('pointerup', 150)); picture.click()")
    await visit.chunk_where(lambda stats: stats["camera"]["speed"] == 0)
    assert not await visit.page.evaluate("picture.paused")
