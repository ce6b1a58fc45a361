"""Promise: a file written by Pafu has the format of its name and is seekable; "-" is always standard output."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import av
import pytest

from server.cli import output
from server.cli.watch import recorded
from server.ipc.messages import CacheChoice, Open
from server.media import faststart
from server.worker.session import WorkerSession

CACHE = CacheChoice(policy="window", budget_latents=6.0, sink_latents=0, recent_latents=3)
ROOT = Path(__file__).resolve().parents[3]


def boxes(video: bytes) -> list[str]:
    at, kinds = 0, []
    while at < len(video):
        size, kind = struct.unpack(">I4s", video[at : at + 8])
        kinds.append(kind.decode())
        at += size
    return kinds


def seconds(video: bytes) -> float:
    with av.open(io.BytesIO(video)) as container:
        return container.duration / av.time_base


@pytest.fixture
def fragments(pattern) -> list[bytes]:
    order = Open(session="a", prompt="x", seed=1, lead_seconds=60, cache=CACHE, pictures=36)
    session = WorkerSession(order, pattern.PatternGenerator("test-tiny"))
    return [session.encode(session.generate(session.apply_pending()[0])).data for _ in range(3)]


def test_a_recording_can_be_played_while_it_grows_and_is_sought_in_afterwards(fragments, tmp_path) -> None:
    path = tmp_path / "live.mp4"
    with recorded(str(path), 16, None) as file:
        for data in fragments:
            file.write(data)
            file.flush()
            assert boxes(path.read_bytes())[:3] == ["ftyp", "moov", "moof"]
    assert boxes(path.read_bytes()) == ["ftyp", "moov", "free", "mdat"], "one index, in front"
    assert seconds(path.read_bytes()) == pytest.approx(36 / 16)
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_that_breaks_off_keeps_what_there_is(fragments, tmp_path) -> None:
    path = tmp_path / "live.mp4"
    with pytest.raises(ConnectionError), recorded(str(path), 16, None) as file:
        file.write(fragments[0])
        raise ConnectionError
    assert seconds(path.read_bytes()) == pytest.approx(12 / 16)
    with pytest.raises(ConnectionError), recorded(str(path), 16, None):
        raise ConnectionError
    assert not path.exists(), "nothing came"


def test_a_recording_is_as_long_as_was_asked_for(fragments, tmp_path) -> None:
    path = tmp_path / "live.mp4"
    with recorded(str(path), 16, 20) as file:
        file.write(b"".join(fragments))
    assert seconds(path.read_bytes()) == pytest.approx(20 / 16)


def test_a_file_that_cannot_be_finished_stays_as_it_is(fragments, tmp_path) -> None:
    part, path = tmp_path / "x.part", tmp_path / "x.mp4"
    part.write_bytes(b"no video")
    with pytest.raises(OSError, match="MP4 index"):
        faststart.finish(part, path, 16)
    assert sorted(tmp_path.iterdir()) == [part]


def test_a_pipe_is_fed_as_it_comes(fragments, tmp_path) -> None:
    fifo, read = tmp_path / "fifo.webm", []  # its name promises nothing
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    output.check(str(fifo))
    with recorded(str(fifo), 16, None) as file:
        file.write(b"".join(fragments))
    reader.join(60)
    assert read == [b"".join(fragments)] and fifo.is_fifo()


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("x.webm", output.VIDEO, "the format is MP4; name it 'x.mp4'"),
        ("x.gif", output.VIDEO, "the format is MP4"),
        ("x.mp4.part", output.VIDEO, "the format is MP4"),
        ("x.jpg", output.PICTURE, "the format is PNG; name it 'x.png'"),
        ("x.csv", output.FIGURES, "the format is JSON; name it 'x.json'"),
        ("none/x.mp4", output.VIDEO, "folder .*none does not exist"),
        (".", output.VIDEO, "it is a folder"),
    ],
)
def test_a_name_that_promises_something_else_is_refused(tmp_path, name, kind, told) -> None:
    with pytest.raises(output.OutputError, match=told):
        output.check(str(tmp_path / name), kind)


def test_names_that_fit_are_taken(tmp_path) -> None:
    for name in ("x.mp4", "x.MP4", "x.m4v", "x"):
        output.check(str(tmp_path / name))
    output.check("-", output.PICTURE)
    output.check(os.devnull)


@pytest.mark.parametrize("place", ["-", "out.mp4"])
def test_generate_writes_a_pipe_or_a_file_with_its_index_in_front(tmp_path, place) -> None:
    command = [sys.executable, "-m", "server.cli", "generate", "a house", "--seconds", "1", "--model", "test-tiny"]
    paths = f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}"
    run = subprocess.run(
        [*command, "-o", place], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True
    )
    if place == "-":
        assert boxes(run.stdout)[:3] == ["ftyp", "moov", "moof"] and not list(tmp_path.iterdir())
    else:
        assert boxes((tmp_path / place).read_bytes())[:2] == ["ftyp", "moov"] and run.stdout == b""
        assert seconds((tmp_path / place).read_bytes()) == pytest.approx(1)
        assert [file.name for file in tmp_path.iterdir()] == [place]
