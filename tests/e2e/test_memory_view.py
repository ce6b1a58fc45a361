"""Promise: in a real browser, the memory view shows the kept tokens that the chunks report."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from server.bench.launch import launched
from tests.e2e.test_browser import ARGUMENTS, Visit, chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")
BUDGET = 5.0


@pytest.fixture(scope="module")
def pruning_server() -> Iterator[str]:
    """A server whose sessions forget quickly."""
    with launched(
        max_sessions=4, model="test-tiny", cache_policy="pafu", cache_budget_latents=BUDGET, cache_sink_latents=0
    ) as server:
        server.wait_ready()
        yield server.url()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(pruning_server: str) -> AsyncIterator[Visit]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 1000})
        yield Visit(page, pruning_server)
        await browser.close()


LIT = """(area) => {
  const canvas = document.querySelector(area);
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let lit = 0;
  for (let i = 3; i < data.length; i += 4) lit += data[i] > 8;
  return lit / (data.length / 4);
}"""


async def test_the_toggle_shows_which_tokens_are_kept(visit: Visit) -> None:
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    assert not await page.is_visible("#memory")
    await page.click("#memory-toggle")
    assert "Press Play" in await page.inner_text(".memory-words"), "there is nothing to see yet, and it says so"
    await page.click("#memory-toggle")
    await page.press("#prompt", "Enter")
    await visit.phase("live")
    stats = await visit.chunk_where(lambda stats: "memory" in stats and stats["evicted_tokens"] > 0)
    memory = stats["memory"]
    cells = memory["rows"] * memory["columns"]
    kept = base64.b64decode(memory["kept"])
    assert len(kept) == len(memory["latents"]) * cells == len(base64.b64decode(memory["salience"]))
    assert sum(kept) / 255 == pytest.approx(stats["cache_tokens"], rel=0.02), "mean over layers is the budget"

    await page.click("#memory-toggle")
    await page.wait_for_function("Number(document.querySelector('#memory-film').dataset.moments) >= 3")
    assert await page.get_attribute("#memory-toggle", "aria-pressed") == "true"
    await page.wait_for_selector(f".memory-detail >> text={stats['cache_tokens']} of ")
    await page.wait_for_selector(".memory-detail >> text=Policy pafu")
    await page.wait_for_selector(".memory-words >> text=/It kept|It let/")
    await page.wait_for_function(f"({LIT})('#memory-film') > 0.2")
    assert await page.evaluate("getComputedStyle(veil).opacity") == "0", "the picture is left alone unless asked"
    await page.click(".veil-toggle")
    await page.wait_for_function(f"getComputedStyle(veil).opacity === '1' && ({LIT})('#veil') > 0.05")
    await page.hover("#memory-film", position={"x": 20, "y": 20})
    await page.wait_for_selector(".memory-detail >> text=of this moment is kept")
    assert await visit.sideways() == 0
    await visit.picture("desktop_memory")

    await page.click("#memory-toggle")
    assert not await page.is_visible("#memory")
    assert visit.problems == []


async def test_what_a_chunk_says_is_read_as_it_was_meant(visit: Visit) -> None:
    await visit.open()
    read = """async (memory) => {
      const m = await import('./moments.js');
      const read = m.readMemory(memory);
      const view = (latent) => (latent > 5 ? 'one' : latent);
      const shown = (most, of) => m.moments(read, most, of).map(({ latents, kept }) => [latents, [...kept]]);
      return [[...read].map(([latent, { kept, salience }]) => [latent, [...kept], salience && [...salience]]),
              shown(2), shown(2, view), shown(9, view).length, [...read.values()].map(m.share)];
    }"""
    kept = base64.b64encode(bytes([255, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 51])).decode()
    memory = {"rows": 2, "columns": 2, "latents": [3, 7, 9], "kept": kept, "salience": ""}
    parts, most, still, all_of_them, shares = await visit.page.evaluate(read, memory)
    assert parts == [[3, [255, 0, 0, 0], None], [7, [255, 255, 0, 0], None], [9, [0, 0, 0, 51], None]]
    assert [latents for latents, _ in most] == [[3], [7]], "the moments that hold most, in time order"
    assert still == [[[3], [255, 0, 0, 0]], [[7, 9], [255, 255, 0, 51]]], "a camera that stands still is one moment"
    assert all_of_them == 3, "where there is room"
    assert shares == [0.25, 0.5, 0.05]
    timing = {"pictures_per_latent": 4, "first_latent_pictures": 1}
    ends = "async ([c]) => { const m = await import('./moments.js'); return [0, 1, 20].map((l) => m.endOf(l, c, 16)) }"
    assert await visit.page.evaluate(ends, [timing]) == [1 / 16, 5 / 16, 81 / 16]


async def test_one_sentence_tells_what_was_kept(visit: Visit) -> None:
    """Of a picture with three rows: the sky, what stands in the middle, the ground."""
    await visit.open()
    say = """async ([rows, percent]) => { const m = await import('./moments.js');
      return m.inWords(new Map([[0, {kept: Uint8Array.from(rows), salience: null}]]), 3, 1, percent) }"""
    said = {
        (0, 255, 25): "It kept what stands in the middle and let the sky and the ground go.",
        (0, 200, 200): "It kept what stands in the middle and the ground and let the sky go.",
        (100, 100, 100): "It kept a little of everything.",
    }
    for rows, sentence in said.items():
        assert await visit.page.evaluate(say, [list(rows), 30]) == sentence
    assert await visit.page.evaluate(say, [[255, 255, 255], 100]) == "It remembers all that it has shown so far."


async def test_picture_words_and_memory_are_in_sight_together(visit: Visit) -> None:
    """On a laptop of 1280 x 720, on a phone in landscape, and in full screen."""
    page = visit.page
    await page.set_viewport_size({"width": 1280, "height": 720})
    await visit.open()
    await visit.phase("ready")
    await page.press("#prompt", "Enter")
    await visit.phase("live")
    await page.press("#stage", "m")
    await page.wait_for_function("Number(document.querySelector('#memory-film').dataset.moments) >= 3")
    await page.evaluate("scrollTo(0, 0)")
    below = "(ids) => ids.map((id) => document.querySelector(id).getBoundingClientRect().bottom - innerHeight)"
    assert max(await page.evaluate(below, ["#picture", "#prompt", "#pause", "#memory-film"])) <= 0
    assert await page.evaluate("picture.getBoundingClientRect().height") >= 250, "the picture is the hero"
    await visit.picture("laptop_memory")
    await page.press("#stage", "f")
    await page.wait_for_function("document.fullscreenElement")
    assert await page.is_visible("#prompt") and await page.is_visible("#memory-film")
    await visit.picture("fullscreen_memory")
    await page.press("#stage", "f")
    await page.press("#stage", "m")
    await page.set_viewport_size({"width": 740, "height": 360})
    await page.evaluate("scrollTo(0, 0)")
    assert max(await page.evaluate(below, ["#picture", "#prompt", "#pause", "#stop"])) <= 0
    assert await visit.sideways() == 0
    await visit.picture("phone_on_its_side")
    sky = """[...document.querySelectorAll('.pan, .corner')].map(
      (button) => button.getBoundingClientRect().bottom - stage.getBoundingClientRect().top)"""
    assert max(await page.evaluate(sky)) < 60, "what lies over the picture is in its sky"
    await page.press("#stage", "f")
    await page.wait_for_function("document.fullscreenElement")
    assert await page.evaluate("picture.getBoundingClientRect().height") >= 250
    await page.press("#stage", "m")
    assert await page.evaluate("picture.getBoundingClientRect().height") >= 120
    assert max(await page.evaluate(below, ["#picture", "#prompt", "#pause", "#memory-film"])) <= 0
    await visit.picture("phone_on_its_side_fullscreen")
    assert visit.problems == []
