"""Promise: a restarted server continues its sessions; no picture is repeated or missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from pafu_client import Chunk, Reconnecting, SessionResumed, connect
from playwright.async_api import async_playwright

from server.bench.launch import ServerProcess
from tests.e2e.conftest import PATIENT
from tests.e2e.test_browser import ARGUMENTS, Visit, chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")
WISH: Any = {"prompt": "a red house, the camera pans right", "seed": 3, "num_frames": 96}


class Place:
    """An address and data folder on which a server is started again."""

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, Any] = {**PATIENT, "data_dir": folder}
        self.server = self._started()
        self.url = self.server.url()
        self.settings["port"] = self.url.rpartition(":")[2]

    def _started(self) -> ServerProcess:
        server = ServerProcess(self.settings)
        server.wait_ready()
        return server

    async def restart(self) -> None:
        assert await asyncio.to_thread(self.server.stop) == 0
        self.server = await asyncio.to_thread(self._started)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("restarted"))
    yield place
    place.server.stop()


async def test_the_python_client_goes_on_in_the_next_server(place: Place, decode: Any) -> None:
    async with connect(place.url, **WISH, realtime=False) as stream:
        undisturbed = [chunk async for chunk in stream]
    async with connect(place.url, **WISH, resume_within=600) as stream:
        chunks = [await stream.receive()]
        restarting = asyncio.create_task(place.restart())
        chunks += [chunk async for chunk in stream]
        await restarting
        assert stream.done is not None and stream.done.reason == "complete"
    assert any(isinstance(event, Reconnecting) for event in stream.events)
    assert any(isinstance(event, SessionResumed) for event in stream.events)
    assert [chunk.metadata.index for chunk in chunks] == list(range(8))
    seen, expected = pictures(chunks, decode), pictures(undisturbed, decode)
    assert seen.shape == expected.shape == (96, 128, 128, 3)
    # A fresh encoder differs by little. The untrained model's pictures differ by little too, so this sees only what is
    # broken; that the latents go on as they would have is told in tests/server/failures.
    assert apart(seen, expected).max() < 2.5


def apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Mean difference of each pair of pictures, in steps of 255."""
    return np.asarray(np.abs(one.astype(int) - two.astype(int)).mean(axis=(1, 2, 3)))


def pictures(chunks: list[Chunk], decode: Any) -> np.ndarray:
    return np.asarray(decode(b"".join(chunk.data for chunk in chunks)).pictures)


@pytest_asyncio.fixture(loop_scope="module")
async def visit(place: Place) -> AsyncIterator[Visit]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield Visit(await browser.new_page(bypass_csp=True, viewport={"width": 1280, "height": 860}), place.url)
        await browser.close()


async def test_the_page_goes_on_in_the_next_server(visit: Visit, place: Place) -> None:
    page = visit.page
    await visit.open()
    await visit.phase("ready")
    await page.press("#prompt", "Enter")
    await visit.frames(12)
    restarting = asyncio.create_task(place.restart())
    await page.wait_for_selector("text=The server is restarting")
    await visit.status("Reconnecting")
    await restarting
    await visit.status("Live")
    shown = await page.evaluate("picture.currentTime")
    await page.wait_for_function(f"picture.currentTime > {shown} + 2")
    await visit.has_every_picture()
    assert await page.is_hidden("#trouble") and visit.problems == []
