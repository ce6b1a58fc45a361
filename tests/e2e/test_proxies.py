"""Promise: everything works behind nginx, Caddy and HAProxy as docs/operations.md configures them, with TLS and a
sub-path."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import websockets
from playwright.async_api import async_playwright

from server.bench.launch import ServerProcess, launched
from tests.e2e.conftest import PATIENT
from tests.e2e.test_browser import ARGUMENTS, chromium

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
NAME = "video.example.org"
PATIENCE = 120.0


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its port, and the address of the page behind it."""

    port: int

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}/pafu"


def documented(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)[1]  # type: ignore[index]


def nginx(folder: Path, text: str, port: int) -> list[str]:
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}")
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"pid {folder}/pid; error_log {folder}/error.log; events {{}}"
    config = folder / "nginx.conf"
    config.write_text(f"{head} http {{ access_log off; {paths}\n{text}\n}}")
    return ["nginx", "-c", str(config), "-g", "daemon off;"]


def caddy(folder: Path, text: str, port: int) -> list[str]:
    head = f"{{\n admin off\n auto_https disable_redirects\n storage file_system {folder}\n}}\n"
    config = folder / "Caddyfile"
    config.write_text(head + text.replace(f"{NAME} {{", f"https://{NAME}:{port} {{\n bind 127.0.0.1"))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)]


def haproxy(folder: Path, text: str, port: int) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(text.replace("bind :443", f"bind 127.0.0.1:{port}"))
    return ["haproxy", "-db", "-f", str(config)]


PROXIES: dict[str, tuple[str, Callable[[Path, str, int], list[str]]]] = {
    "nginx": ("nginx", nginx),
    "caddy": ("caddyfile", caddy),
    "haproxy": ("haproxy", haproxy),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("behind")
    with launched(**PATIENT, data_dir=folder, allowed_hosts=NAME, trusted_proxies="127.0.0.1") as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with video.pem, video.key and both in one."""
    folder = tmp_path_factory.mktemp("certificate")
    made = ["-keyout", str(folder / "video.key"), "-out", str(folder / "video.pem")]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    subprocess.run(["openssl", "req", *kind, *subject, *made], check=True, capture_output=True)
    both = (folder / "video.pem").read_text() + (folder / "video.key").read_text()
    (folder / "video.both.pem").write_text(both)
    return folder


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, server: ServerProcess, certificate: Path, tmp_path: Path) -> Iterator[Proxy]:
    with running(request.param, server, certificate, tmp_path) as port:
        yield Proxy(port)


class running:
    """The documented configuration in a real proxy, for a block."""

    def __init__(self, name: str, server: ServerProcess, certificate: Path, folder: Path) -> None:
        if shutil.which(name) is None:
            no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_PROXIES") == "1" else pytest.skip
            no(f"{name} is not installed; apt-get install {name}")
        language, configure = PROXIES[name]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        text = documented(language).replace("/etc/ssl", str(certificate))
        text = text.replace("127.0.0.1:8000", server.url().removeprefix("http://"))
        self._log = folder / "proxy.log"
        environ = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        with self._log.open("w") as log:
            command = configure(folder, text, self.port)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    def __enter__(self) -> int:
        give_up = time.monotonic() + PATIENCE
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self.port
            except OSError:
                assert time.monotonic() < give_up, self._log.read_text()
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


async def test_page_videos_and_live_stream_pass(proxy: Proxy, certificate: Path) -> None:
    origin = f"https://{NAME}:{proxy.port}"
    trust = ssl.create_default_context(cafile=str(certificate / "video.pem"))
    here = httpx.AsyncClient(base_url=f"https://127.0.0.1:{proxy.port}", verify=trust, trust_env=False, timeout=120)
    named = {"headers": {"host": f"{NAME}:{proxy.port}", "origin": origin}, "extensions": {"sni_hostname": NAME}}
    async with here as client:
        assert (await client.get("/pafu", **named)).headers["location"].endswith("/pafu/")
        assert "<html" in (await client.get("/pafu/", **named)).text
        assert (await client.get("/pafu/v1/models/", **named)).json()["object"] == "list"
        made = await client.post("/pafu/v1/videos", json={"prompt": "a bar"}, **named)
        assert made.status_code == 200, made.text
        evil = {**named, "headers": {**named["headers"], "origin": "https://evil.example.org"}}
        assert (await client.post("/pafu/v1/videos", json={"prompt": "a bar"}, **evil)).status_code == 403
    live = f"wss://{NAME}:{proxy.port}/pafu/v1/realtime/video"
    options = {"ssl": trust, "host": "127.0.0.1", "origin": origin, "proxy": None, "max_size": None}
    async with websockets.connect(live, **options) as viewer:  # type: ignore[arg-type]
        await viewer.send(json.dumps({"type": "session.start", "prompt": "a red house", "num_frames": 24}))
        said = [message async for message in viewer]
    kinds = [json.loads(message)["type"] for message in said if isinstance(message, str)]
    assert kinds[0] == "video.start" and kinds[-1] == "session.done"
    assert len([message for message in said if isinstance(message, bytes)]) == kinds.count("video.chunk_metadata") == 2


async def test_the_page_plays_in_a_browser_under_its_own_policy(server, certificate, tmp_path) -> None:
    problems: list[str] = []
    with running("nginx", server, certificate, tmp_path) as port:
        async with async_playwright() as playwright:
            names = [f"--host-resolver-rules=MAP {NAME} 127.0.0.1", "--no-proxy-server"]
            browser = await playwright.chromium.launch(executable_path=chromium(), args=[*ARGUMENTS, *names])
            page = await browser.new_page(ignore_https_errors=True)
            page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.goto(f"https://{NAME}:{port}/pafu/")
            await page.fill("#prompt", "a red house")
            async with asyncio.timeout(PATIENCE):
                while await page.evaluate("document.body.dataset.phase ?? document.body.className") == "loading":
                    await asyncio.sleep(0.1)
                await page.press("#prompt", "Enter")
                while not await page.evaluate("picture.currentTime > 0.5"):
                    await asyncio.sleep(0.1)
            await browser.close()
    assert problems == []
