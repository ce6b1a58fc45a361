"""Promise: @pafu/client, packed and installed into another project, streams and creates videos in Node, plays in a page
of another origin, and has types."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.test_browser import ARGUMENTS, PATIENCE, chromium

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "js"
TOOLS = ROOT / "tests" / "web"

PROGRAM = """
import { writeFile } from "node:fs/promises";
import { connect, PafuError, Server, watch } from "@pafu/client";

const url = process.argv[2];
const told = [];
const stream = await connect(url, {
  prompt: "a red house", seed: 7, num_frames: 48, realtime: false, onEvent: (type) => told.push(type),
});
const parts = [];
let looked = 0;
for await (const { metadata, data } of stream) {
  parts.push(data);
  if (metadata.transport_chunk_index === 0) stream.interact({ prompt: "a mill", camera: { speed: 4 } });
}
await writeFile("live.mp4", Buffer.concat(parts));

const endless = await connect(url, { prompt: "a red house" });
await endless.next();
for await (const _ of await watch(url, endless.start.session_id)) if (++looked === 1) break;
endless.pause();
endless.resume();
endless.stop();
while (await endless.next());

const refused = await connect(url, { prompt: "" }).catch((error) => error);
const server = new Server(url);
const ordered = await server.create({ prompt: "a red house", seed: 7, num_frames: 12 });
const states = [];
const video = await server.wait(ordered.id, { progress: ({ status }) => states.push(status) });
await writeFile("job.mp4", await server.content(video.id));
const longer = await server.wait((await server.extend(video.id, { prompt: "a mill", seconds: 0.75 })).id);
const listed = (await server.videos({ limit: 2 })).map(({ id }) => id);
await server.remove(longer.id);
const gone = await server.video(longer.id).catch((error) => error);
console.log(JSON.stringify({
  told, looked, done: endless.done.reason, refused: [refused instanceof PafuError, refused.code, refused.param],
  states, seconds: longer.seconds, listed: listed.includes(longer.id), gone: gone.code,
  model: (await server.models())[0].id,
}));
"""
TYPED = """
import { connect, type Server } from "@pafu/client";
import type { PafuPlayer } from "@pafu/client/player";
import type { ChunkMetadata } from "@pafu/client/messages";

export async function bytes(url: string, player: PafuPlayer, server: Server): Promise<number> {
  const stream = await connect(url, { prompt: "a mill", seed: 1 });
  let sum = 0;
  for await (const chunk of stream) {
    const metadata: ChunkMetadata = chunk.metadata;
    sum += metadata.byte_length;
  }
  player.interact({ prompt: "a house" });
  // @ts-expect-error a seed is a number
  await connect(url, { prompt: "a mill", seed: "1" });
  return sum + (await server.videos()).length;
}
"""
PAGE = """<!doctype html><meta charset="utf-8"><title>A page of somebody else</title>
<script type="importmap">
  {"imports": {"@pafu/client/player": "./node_modules/@pafu/client/client/player-element.js"}}
</script>
<script type="module">import "@pafu/client/player";</script>
<pafu-player src="SERVER" prompt="a red house" seed="7" autoplay muted controls></pafu-player>
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain project into which the packed tarball is installed, without a network."""
    if shutil.which("npm") is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_NODE") == "1" else pytest.skip
        no("no npm; apt-get install nodejs npm")
    if not (TOOLS / "node_modules" / ".bin" / "tsc").exists():
        npm(TOOLS, "ci", "--silent")
    folder = tmp_path_factory.mktemp("project")
    npm(PACKAGE, "pack", "--silent", "--pack-destination", str(folder))
    (folder / "package.json").write_text(json.dumps({"name": "somebody", "private": True, "type": "module"}))
    (tarball,) = folder.glob("pafu-client-*.tgz")
    npm(folder, "install", "--silent", "--offline", "--no-audit", str(tarball))
    return folder


def npm(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join((str(TOOLS / "node_modules" / ".bin"), os.environ["PATH"]))
    done = subprocess.run(
        ["npm", *arguments], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_no_dependency_the_version_of_the_server_and_only_what_is_meant(project: Path) -> None:
    from server import __version__

    installed = project / "node_modules" / "@pafu" / "client"
    package = json.loads((installed / "package.json").read_text())
    assert package["version"] == __version__ and not {"dependencies", "peerDependencies"} & set(package)
    assert {path.name for path in installed.iterdir()} == {"client", "types", "package.json", "README.md", "LICENSE"}


def test_a_program_in_node_streams_steers_looks_on_and_orders_videos(project: Path, live_server: str, decode) -> None:
    (project / "program.js").write_text(PROGRAM)
    major = int(subprocess.check_output(["node", "-p", "parseInt(process.versions.node)"]))
    socket = ["--experimental-websocket"] if major < 22 else []
    command = ["node", "--no-warnings", *socket, "program.js", live_server]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert decode((project / "live.mp4").read_bytes()).pictures.shape[0] == 48
    assert {"start", "chunk", "queued", "applied", "done", "closed"} <= set(told["told"])
    assert (told["looked"], told["done"], told["model"]) == (1, "stopped", "test-tiny")
    assert told["refused"] == [True, "invalid_message", "prompt"]
    assert told["states"][-1] == "completed" and told["seconds"] == "1.5" and told["listed"]
    assert decode((project / "job.mp4").read_bytes()).pictures.shape[0] == 12
    assert told["gone"] == "not_found"


def test_its_types_say_what_fits(project: Path) -> None:
    (project / "typed.ts").write_text(TYPED)
    flags = ["--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
    done = subprocess.run(
        [str(TOOLS / "node_modules" / ".bin" / "tsc"), *flags, "--lib", "es2023,dom", "typed.ts"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def elsewhere(project: Path) -> Iterator[str]:
    """The project's files on an origin of their own."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(project)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_element_plays_and_is_steered_on_a_page_of_another_origin(project: Path, elsewhere, live_server) -> None:
    (project / "index.html").write_text(PAGE.replace("SERVER", live_server))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(elsewhere)
        page.wait_for_function("document.querySelector('pafu-player').video?.currentTime > 0.5")
        page.evaluate(
            "() => { const it = document.querySelector('pafu-player');"
            " it.addEventListener('chunk', ({ detail }) => (window.prompt_shown = detail.metadata.stats.prompt));"
            " it.setAttribute('prompt', 'a mill at night'); }"
        )
        page.wait_for_function("window.prompt_shown === 'a mill at night'")
        page.get_by_role("button", name="Pause").click()
        stood = page.evaluate("document.querySelector('pafu-player').video.paused")
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("!document.querySelector('pafu-player').video.paused")
        page.evaluate("document.querySelector('pafu-player').remove()")
        browser.close()
    assert stood and not problems
