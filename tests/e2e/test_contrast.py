"""Promise: every text on the page is readable: WCAG contrast of 4.5, or 3 for large letters, against its real
background.

Style sheets do not determine the background of a text (the page takes colors from the picture, and panels are
translucent), so it is measured in a screenshot with transparent letters.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Browser, Page

from tests.e2e.test_browser import Visit, browser

__all__ = ["browser"]  # fixture
pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE, LARGE_BOLD = 24.0, 18.66  # pixels
SCENES = {"light": "a moonlit meadow, a red house", "dark": "a sunny meadow, a red house"}  # the scheme's hardest
TEXTS = """() => {
  const found = [];
  const seen = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const exempt = (element) => element.closest(":disabled, option, [aria-hidden=true], noscript, .skip");
  const note = (element, text, style, range) => {
    for (const { x, y, width, height } of range.getClientRects()) {
      if (width < 2 || height < 2) continue;
      found.push({ text, colour: style.color, size: parseFloat(style.fontSize), weight: Number(style.fontWeight),
        x: x + scrollX, y: y + scrollY, width, height });
    }
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const { currentNode: node } = walk, element = node.parentElement, text = node.textContent.trim();
    if (!text || !seen(element) || exempt(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    note(element, text, getComputedStyle(element), range);
  }
  for (const element of document.querySelectorAll("textarea, input, select")) {
    if (!seen(element) || exempt(element)) continue;
    const style = getComputedStyle(element, element.value ? null : "::placeholder");
    note(element, element.value || element.placeholder || element.id, style, element);
  }
  return found;
}"""
SHOW_ALL = """() => {
  for (const element of document.querySelectorAll("[hidden]:not(input):not(canvas)")) element.hidden = false;
  for (const element of document.querySelectorAll("details")) element.open = true;
  document.body.classList.add("comparing");
  for (const [id, text] of Object.entries({ "trouble-title": "The connection was lost.", "trouble-hint": "Press play.",
    "trouble-detail": "the server's own words", "wait-text": "The next pictures are being painted.", "own-name": "pafu",
    "rival-name": "window", "along-note": "Saved.", "tour-words": "Back after 6 s" })) {
    document.getElementById(id).textContent = text;
  }
}"""
NO_LETTERS = "*, *::placeholder { color: transparent !important; caret-color: transparent !important; }"


@dataclass
class Text:
    """One line of text on the page; colour as (r, g, b, alpha)."""

    text: str
    colour: tuple[float, float, float, float]
    needed: float
    box: tuple[int, int, int, int]


def texts_of(found: list[dict]) -> list[Text]:
    texts = []
    for each in found:
        numbers = [float(part) for part in each["colour"].partition("(")[2].rstrip(")").replace("/", ",").split(",")]
        red, green, blue, alpha = (*numbers, 1.0)[:4]
        large = each["size"] >= LARGE or (each["weight"] >= 700 and each["size"] >= LARGE_BOLD)
        x, y = each["x"], each["y"]
        box = (int(x), int(y), int(x + each["width"]) + 1, int(y + each["height"]) + 1)
        texts.append(Text(each["text"][:60], (red, green, blue, alpha), 3.0 if large else 4.5, box))
    return texts


def luminance(colours: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance of (..., 3) in 0 to 255."""
    parts = colours / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(text: Text, page: np.ndarray) -> float:
    """The text's contrast with its background, at the worst place except single pixels."""
    left, top, right, bottom = text.box
    behind = page[max(0, top) : bottom, max(0, left) : right].reshape(-1, 3).astype(float)
    *colour, alpha = text.colour
    letters, ground = luminance(np.array(colour) * alpha + behind * (1 - alpha)), luminance(behind)
    ratios = (np.maximum(letters, ground) + 0.05) / (np.minimum(letters, ground) + 0.05)
    return float(np.percentile(ratios, 5))


async def faint(page: Page) -> list[str]:
    """Texts with less contrast than required."""
    await page.wait_for_load_state("networkidle")  # what the server tells of moves what stands below
    texts = texts_of(await page.evaluate(TEXTS))
    assert len(texts) > 15
    await page.add_style_tag(content=NO_LETTERS)
    shot = np.array(Image.open(io.BytesIO(await page.screenshot(full_page=True))).convert("RGB"))
    await page.evaluate("document.head.lastElementChild.remove()")
    found = [(contrast(text, shot), text) for text in texts if text.box[3] <= len(shot)]
    return [f"{ratio:.2f} of {text.needed}: {text.text}" for ratio, text in found if ratio < text.needed]


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_every_text_can_be_read(browser: Browser, live_server: str, scheme: str) -> None:
    context = await browser.new_context(
        bypass_csp=True, color_scheme=scheme, reduced_motion="reduce", viewport={"width": 1280, "height": 900}
    )
    visit = Visit(await context.new_page(), live_server)
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    assert await faint(page) == []
    await page.fill("#prompt", SCENES[scheme])
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    await page.press("#stage", "m")
    await page.press("#stage", " ")
    await visit.status("Paused")
    await page.evaluate(SHOW_ALL)
    await visit.picture(f"contrast_{scheme}")
    assert await faint(page) == []
    await page.press("#stage", "?")
    await page.wait_for_selector("#keys-dialog[open]")
    assert not [line for line in await faint(page) if "move the camera while held" in line]
    await page.evaluate("document.querySelector('dialog').close()")
    grey = {"dark": "#666", "light": "#999"}[scheme]
    await page.add_style_tag(content=f":root {{ --paper: {grey} !important }}")
    assert await faint(page) != [], "it would be seen"
    await context.close()
