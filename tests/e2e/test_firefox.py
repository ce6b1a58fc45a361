"""Promise: the page plays in Firefox as it does in Chromium, at every size, and nothing on it is cut off."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

PATIENCE = 120.0
ARTIFACTS = Path(__file__).with_name("artifacts")
PREFERENCES = {"remote.active-protocols": 1, "media.autoplay.default": 0, "network.proxy.type": 0}
SIZES = {"laptop": (1280, 720), "phone": (390, 844), "phone_on_its_side": (844, 390)}


class Firefox:
    """One window, driven by WebDriver BiDi, which needs no driver program."""

    def __init__(self, program: str, folder: Path) -> None:
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
        (folder / "user.js").write_text("".join(lines))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [program, "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port", str(port)]
        environ = {**os.environ, "HOME": str(folder), "LD_LIBRARY_PATH": h264_of_pyav(folder)}
        self._process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._held = contextlib.ExitStack()
        self._socket, self._asked = self._connected(f"ws://127.0.0.1:{port}/session"), 0
        self.ask("session.new", capabilities={})
        self.context = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def _connected(self, address: str) -> Any:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                return self._held.enter_context(connect(address, max_size=None, proxy=None))
            except (OSError, InvalidHandshake):
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise
                time.sleep(0.2)

    def ask(self, method: str, **params: Any) -> Any:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(PATIENCE))).get("id") != self._asked:
            pass  # an event
        assert answer["type"] == "success", answer
        return answer["result"]

    def tell(self, expression: str) -> Any:
        """The value of an expression in the page."""
        target = {"context": self.context}
        script = f"JSON.stringify({expression})"
        reply = self.ask("script.evaluate", expression=script, target=target, awaitPromise=True)
        assert reply["type"] == "success", reply
        return json.loads(reply["result"].get("value", "null"))

    def until(self, expression: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while not self.tell(expression):
            assert time.monotonic() < give_up, f"{expression}; the page says {self.tell('document.body.innerText')}"
            time.sleep(0.2)

    def open(self, url: str) -> None:
        self.ask("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def resize(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}
        self.ask("browsingContext.setViewport", context=self.context, viewport=viewport)
        self.until(f"innerWidth === {width}")

    def keep_picture(self, name: str) -> None:
        """For people to look at."""
        ARTIFACTS.mkdir(exist_ok=True)
        shot = self.ask("browsingContext.captureScreenshot", context=self.context)
        (ARTIFACTS / f"firefox_{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._held.close()
        self._process.terminate()
        self._process.wait(PATIENCE)


def h264_of_pyav(folder: Path) -> str:
    """Folders with the codec library that PyAV brings, under the names by which Firefox looks for the system's."""
    libraries = Path(av.__file__).resolve().parents[1] / "av.libs"
    names = folder / "libraries"
    names.mkdir()
    for kind in ("libavcodec", "libavutil"):
        for found in libraries.glob(f"{kind}-*.so.*"):
            major = found.name.partition(".so.")[2].partition(".")[0]
            (names / f"{kind}.so.{major}").symlink_to(found)
    return f"{names}{os.pathsep}{libraries}"


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Firefox]:
    program = shutil.which("firefox") or shutil.which("firefox-esr")
    if program is None:
        pytest.skip("no firefox program; apt-get install firefox-esr")
    window = Firefox(program, tmp_path)
    yield window
    window.close()


def test_the_page_plays_in_firefox_and_fits_every_size(firefox: Firefox, live_server: str) -> None:
    firefox.resize(*SIZES["laptop"])
    firefox.open(live_server)
    firefox.until("!document.getElementById('begin').hidden && document.getElementById('prompt').value.length > 0")
    if not firefox.tell("MediaSource.isTypeSupported('video/mp4; codecs=\"avc1.42c01f\"')"):
        pytest.skip("this Firefox has no H.264, and takes PyAV's library for none")
    firefox.tell("document.getElementById('begin').click()")
    firefox.until("document.getElementById('picture').currentTime > 0.5")
    firefox.tell("document.getElementById('memory-toggle').click()")
    firefox.until("document.querySelector('#memory canvas')?.width > 0")
    for name, (width, height) in SIZES.items():
        firefox.resize(width, height)
        firefox.keep_picture(name)
        assert firefox.tell("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
        for seen in ("picture", "prompt", "pause"):
            edge = firefox.tell(f"document.getElementById('{seen}').getBoundingClientRect().bottom")
            assert 0 < edge <= height, f"{name}: {seen} ends at {edge} of {height}"
