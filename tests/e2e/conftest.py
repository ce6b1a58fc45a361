"""``pafu serve`` as a separate process, with the small random model that needs no weights."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from server.bench.launch import ServerProcess, launched

ROOT = Path(__file__).resolve().parents[2]
MODEL = os.environ.get("PAFU_TEST_MODEL", "test-tiny")
# On a busy machine a worker starts slowly, and what a page says passes slowly through the test that listens;
# how many sessions it could play to is not what these tests are about.
PATIENT = {"model": MODEL, "max_sessions": 4, "ready_wait": 120, "start_timeout": 120, "stall_timeout": 600}


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    """Make the packages importable for the server's processes, even if they are not installed."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "clients" / "python"), before]))
    yield
    os.environ["PYTHONPATH"] = before or ""


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One warm server for all tests that do not change it."""
    with launched(**PATIENT, data_dir=tmp_path_factory.mktemp("data")) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def live_server(server_process: ServerProcess) -> str:
    """Its address."""
    return server_process.url()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A warm server for one test, which may change or kill it."""
    with launched(**PATIENT, data_dir=tmp_path) as server:
        server.wait_ready()
        yield server


class Video:
    """Decoded bytes of a stream."""

    def __init__(self, data: bytes) -> None:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            self.has_b_frames = bool(stream.codec_context.has_b_frames)
            frames = list(container.decode(stream))
            self.seconds = [float(frame.pts * frame.time_base) for frame in frames]
            self.keys = [index for index, frame in enumerate(frames) if frame.key_frame]
            self.pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.fixture
def decode() -> type[Video]:
    return Video
