"""Promise: the page works with a model of Wan's shape, whose first chunk is shorter, and with a first picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.async_api import Browser

from server.bench.launch import launched
from tests.e2e.conftest import PATIENT
from tests.e2e.test_browser import Visit, browser

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.asyncio(loop_scope="module")

DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
  document.querySelector("#stage").dispatchEvent(drop);
}"""


@pytest.fixture(scope="module")
def wan_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with launched(**{**PATIENT, "model": "test-wan"}, data_dir=tmp_path_factory.mktemp("data")) as server:
        server.wait_ready()
        yield server.url()


def png(width: int, height: int) -> str:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


async def test_chunks_of_9_12_12_pictures_play_without_a_gap_and_a_dropped_picture_begins_them(
    browser: Browser, wan_server: str
) -> None:
    page = await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 860})
    visit = Visit(page, wan_server)
    await visit.open()
    await visit.phase("ready")
    for name, kind, data, said in (
        ("notes.pdf", "application/pdf", "JVBERg==", "“notes.pdf” is not a picture"),
        ("torn.png", "image/png", "iVBORw0KGgo=", "cannot read “torn.png”"),
        ("dot.png", "image/png", png(1, 1), "has 1x1 pixels; each side needs at least 16"),
    ):
        await page.evaluate(DROP, [name, kind, data])
        await page.wait_for_selector(f"#trouble >> text={said}")
        assert await page.is_hidden("#start-thumb")
    await page.evaluate(DROP, ["orange.png", "image/png", png(300, 100)])
    await page.wait_for_selector("#start-thumb:not([hidden])")
    assert await page.is_hidden("#trouble")
    assert await page.is_hidden("#tour") and await page.is_hidden("#pan-left"), "this model has no camera"
    await visit.picture("wan_picture_dropped")

    await page.fill("#prompt", "a cat walks on the grass")
    await page.press("#prompt", "Enter")
    await visit.frames(33)
    start = next(message for message in visit.sent if message["type"] == "session.start")
    assert start["image"].startswith("data:image/jpeg;base64,")
    assert [chunk["num_frames"] for chunk in visit.said("video.chunk_metadata")][:3] == [9, 12, 12]
    await visit.has_every_picture()
    await page.wait_for_function("picture.currentTime > 25 / 16")  # into the third chunk: no hole has stopped it
    await page.click("text=Model and memory")
    assert "sink_window with 6 latent frames" in await page.inner_text("#cache-words")
    assert "relative positions" in await page.inner_text("#cache-words")
    await visit.picture("wan_playing")
    assert visit.problems == []
