"""Promise: on a server with keys, the page asks for one, each stream connects with a ticket, and programs use the
key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from server.bench.launch import launched
from tests.e2e.test_browser import ARGUMENTS, Visit, chromium

KEY = "the-key-of-the-page-0123456789"


@pytest.fixture(scope="module")
def keyed_server() -> Iterator[str]:
    with launched(max_sessions=4, model="test-tiny", api_keys=KEY) as server:
        server.wait_ready()
        yield server.url()


@pytest_asyncio.fixture
async def visit(keyed_server: str) -> AsyncIterator[Visit]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield Visit(await browser.new_page(bypass_csp=True), keyed_server)
        await browser.close()


async def test_the_page_asks_for_the_key_and_plays_with_tickets(visit: Visit) -> None:
    page = visit.page
    await visit.open()
    await page.wait_for_selector("#key-form:not([hidden])")
    await page.fill("#key", "a-key-that-nobody-knows")
    await page.press("#key", "Enter")
    await page.wait_for_selector("#key-again:not([hidden])")
    await page.fill("#key", KEY)
    await page.press("#key", "Enter")
    await page.wait_for_selector("#key-form", state="hidden")
    await page.wait_for_function("document.querySelector('#model').options.length")
    for _ in range(2):  # a ticket for each stream
        await visit.phase("ready")
        await page.click("#begin")
        await visit.frames(12)
        await page.click("#stop")
    await visit.phase("ready")
    minted = [url for url in visit.requests if url.endswith("/client_secrets")]
    assert len(minted) == 2 and not any(KEY in url or "ek_" in url for url in visit.requests)
    assert visit.problems == []


def watch(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "watch", "a mill", "--seconds", "1", "-o", os.devnull, "--url", url]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
    return subprocess.run(command, env={**environ, **variables}, capture_output=True, text=True, timeout=120)


def test_programs_use_the_key_of_the_environment(keyed_server: str) -> None:
    refused = watch(keyed_server)
    assert refused.returncode == 1 and "Authorization: Bearer" in refused.stderr
    assert watch(keyed_server, PAFU_API_KEY=KEY).returncode == 0
