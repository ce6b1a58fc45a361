"""Record the README's animation: ``python -m deploy.page_picture docs/pictures/page.webp``.

Starts a server with the shipped model, opens its page in Chromium (PAFU_TEST_CHROMIUM, or from PATH), plays, shows the
memory view, goes away and comes back, and writes screenshots as an animated WebP.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from server.bench.launch import launched

PROMPT = "a meadow by day, a red house with a blue roof on the left and a white mill on the right"
SIZE = {"width": 1100, "height": 800}
SHOWN = (660, 480)
RATE = 6  # pictures per second
SHARE = 0.6  # of the pictures are taken: the animation plays faster, so that it fits
MOST_BYTES = 2_000_000
PATIENCE = 300_000  # ms
BACK = "!document.querySelector('#tour-pictures').hidden"


def visit(page: Page, url: str) -> Iterator[Image.Image]:
    """Yield evenly spaced screenshots of a visit."""
    page.goto(url)
    page.fill("#prompt", PROMPT)
    page.click("#send")
    page.wait_for_function("document.querySelector('#picture').currentTime > 1", timeout=PATIENCE)
    page.click("#memory-toggle")
    yield from pictures(page, 1.0)
    page.dispatch_event("#tour", "click")  # without scrolling to it
    while not page.evaluate(BACK):  # it says before and after below, once the place is in view again
        yield from pictures(page, 1 / (RATE * SHARE))
    page.dispatch_event("#tour-close", "click")
    page.evaluate("scrollTo(0, 0)")
    yield from pictures(page, 0.5)


def pictures(page: Page, seconds: float) -> Iterator[Image.Image]:
    """Yield screenshots for ``seconds`` of the stream, each at its media time."""
    began = page.evaluate("document.querySelector('#picture').currentTime")
    for number in range(round(seconds * RATE * SHARE)):
        due = began + number / (RATE * SHARE)
        page.wait_for_function(f"document.querySelector('#picture').currentTime >= {due}", timeout=PATIENCE)
        with Image.open(io.BytesIO(page.screenshot(type="png"))) as shot:
            yield shot.convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)


def save(frames: list[Image.Image], path: Path) -> int:
    """Write the frames as a WebP below MOST_BYTES; returns its size. Raises SystemExit if they do not fit."""
    for quality in (70, 50, 35, 20):
        out = io.BytesIO()
        first, *more = frames
        first.save(
            out, "WEBP", save_all=True, append_images=more, duration=1000 // RATE, loop=0, quality=quality, method=4
        )
        if len(out.getvalue()) < MOST_BYTES:
            path.write_bytes(out.getvalue())
            return len(out.getvalue())
    raise SystemExit(f"{len(frames)} pictures do not fit into {MOST_BYTES} bytes")


def main() -> None:
    (path,) = map(Path, sys.argv[1:])
    browser_at = os.environ.get("PAFU_TEST_CHROMIUM") or shutil.which("chromium")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as data, launched(data_dir=data, max_sessions=1, ready_wait=300) as server:
        server.wait_ready()
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=browser_at, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport=SIZE, color_scheme="dark", bypass_csp=True)  # for evaluate()
            frames = list(visit(page, server.url()))
            browser.close()
    size = save(frames, path)
    print(f"{path}: {len(frames)} pictures, {size / 1e6:.2f} MB, made in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
