"""A real front in the test's event loop, over a real worker process whose model is a test pattern (pattern.py)."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import msgspec
import numpy as np
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from server.config import Settings
from server.engine.local import LocalEngine
from server.engine.slots import slots_for
from server.http.app import Front
from server.http.listener import listen
from server.http.service import build
from server.live.server_messages import SERVER_MESSAGES

ROOT = Path(__file__).resolve().parents[2]
PATTERN = Path(__file__).with_name("pattern.py")
# a session ends with its connection, so that a test can see that nothing is left; how many there may be is not left to
# the speed of the machine; nothing is painted of its own accord
KEEP_NOTHING = {
    "model": "test-tiny",
    "port": 0,
    "keep_on_device": 0,
    "keep_on_disk": 0,
    "max_sessions": 4,
    "gallery": False,
}
PATIENT = {"ready_wait": 120.0, "start_timeout": 120.0}  # on a busy machine a worker starts slowly
PATIENCE = 120.0  # a test that waits longer hangs; nothing is measured with it


class Viewer:
    """A client of the live protocol that keeps everything it received."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.fragments: list[bytes] = []

    async def send(self, message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def start(self, **fields: Any) -> dict[str, Any]:
        """Send session.start; returns the first reply."""
        await self.send({"type": "session.start", "prompt": "a bar", **fields})
        return await self.next()

    async def next(self) -> dict[str, Any]:
        """The next JSON message; bytes on the way are collected, and must directly follow their metadata."""
        async with asyncio.timeout(PATIENCE):
            while True:
                received = await self.socket.recv()
                if isinstance(received, str):
                    self.messages.append(json.loads(received))
                    as_documented(self.messages[-1])
                    return self.messages[-1]
                metadata = self.messages[-1]
                assert metadata["type"] == "video.chunk_metadata", "bytes came without their metadata"
                assert len(received) == metadata["byte_length"]
                self.fragments.append(received)

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to the next message of this type."""
        while True:
            message = await self.next()
            if message["type"] == kind:
                return message

    async def closed(self) -> int:
        """Read to the end; returns the close code."""
        try:
            while True:
                await self.next()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd is not None, "the server vanished without a close frame"
            return closed.rcvd.code

    def pictures(self) -> np.ndarray:
        """All pictures received, decoded: (T, H, W, 3) uint8."""
        return decode_video(b"".join(self.fragments))


def decode_video(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def as_documented(message: dict[str, Any]) -> None:
    """Checks that a server message has exactly the fields of its struct, from which the AsyncAPI document is
    generated."""
    msgspec.convert(message, SERVER_MESSAGES[message["type"]])


class RunningServer:
    """A front that listens on a free port."""

    def __init__(self, front: Front, engine: LocalEngine, port: int, stop: Callable[[], Awaitable[None]]) -> None:
        self.front, self.engine, self.port, self.stop = front, engine, port, stop
        self.url = f"http://127.0.0.1:{port}"
        self.app: Any = None
        self.service: Any = None

    def connect(self, **options: Any) -> connect:
        options = {"max_size": None, "proxy": None, "open_timeout": PATIENCE, **options}
        return connect(f"ws://127.0.0.1:{self.port}/v1/realtime/video", **options)

    async def watch(self, options: dict[str, Any] | None = None, **fields: Any) -> Viewer:
        """A whole session, from start to end. ``options`` are the connection's."""
        async with self.connect(**(options or {})) as socket:
            viewer = Viewer(socket)
            assert (await viewer.start(**fields))["type"] == "video.start"
            await viewer.until("session.done")
            return viewer

    async def works(self, **options: Any) -> None:
        """Check that the server still works: a good session gets all its pictures, and no session is left over."""
        viewer = await self.watch(options, num_frames=13, seed=5)
        assert viewer.pictures().shape == (13, 128, 128, 3)
        await self.empties()

    def coming_back(self, began: dict[str, Any]) -> dict[str, Any]:
        """The message that resumes the session, whose video.start was ``began``, after its last chunk."""
        session = next(session for session in self.front.sessions if session.id == began["session_id"])
        named = {"session_id": session.id, "token": began["resume_token"]}
        return {"type": "session.resume", **named, "last_chunk_index": session.next_index - 1}

    async def empties(self) -> None:
        """Wait until neither front nor engine holds a session."""
        async with asyncio.timeout(PATIENCE):
            while self.front.viewers or len(self.front.sessions) or self.engine.status().sessions:
                await asyncio.sleep(0.01)


Serve = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a server with these settings, whose workers are this command; it is stopped after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running: list[RunningServer] = []

    async def start(command: tuple[str, ...] = (sys.executable, str(PATTERN)), **settings: Any) -> RunningServer:
        given = Settings(**{**KEEP_NOTHING, **PATIENT, "data_dir": tmp_path, "max_waiting": 0, **settings})
        engine = LocalEngine(given, slots_for(given), command)
        service = build(given, engine)
        sock = listen("127.0.0.1", 0)
        port = sock.getsockname()[1]
        serving = asyncio.create_task(service.serve(sockets=[sock]))

        async def stop() -> None:
            service.should_exit = True
            await serving

        running.append(RunningServer(service.front, engine, port, stop))
        running[-1].app, running[-1].service = service.config.app, service
        return running[-1]

    yield start
    for server in running:
        await server.stop()


@pytest.fixture
async def server(serve: Serve) -> RunningServer:
    return await serve()


@pytest.fixture(scope="session")
def pattern() -> ModuleType:
    """The module of the test pattern, for tests that need no process."""
    spec = importlib.util.spec_from_file_location("pattern", PATTERN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pattern"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def viewer_of() -> type[Viewer]:
    return Viewer


@pytest.fixture
def decode() -> Callable[[bytes], np.ndarray]:
    """A video's pictures (T, H, W, 3) uint8."""
    return decode_video
