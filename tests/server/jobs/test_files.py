"""Promise: a file appears completely or not at all, in a folder or any fsspec store; no name escapes the folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from server.jobs.files import FilesError, FilesUnavailable, LocalFiles, RemoteFiles, open_files

ROOT = Path(__file__).resolve().parents[3]
LIMITED = """
import resource, signal, sys
from pathlib import Path
from server.jobs.files import FilesUnavailable, LocalFiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = LocalFiles(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    files.write("a/1", b"n" * 100_000)
except FilesUnavailable as error:
    print("full", error.full)
"""


@pytest.fixture(params=["folder", "fsspec"])
def files(request, tmp_path):
    """fsspec treats the second as another file system, so nothing is shared with the first."""
    return open_files(None if request.param == "folder" else f"dir::file://{tmp_path}/videos", tmp_path)


def test_what_was_written_is_read_copied_measured_and_removed(files, tmp_path) -> None:
    files.write("a/1.m4s", b"one" * 1000)
    files.write("a/1.m4s", b"two" * 1000)
    files.copy("a/1.m4s", "b/1.m4s")
    assert files.read("b/1.m4s") == b"two" * 1000 and files.size("a/1.m4s") == 3000
    assert b"".join(files.chunks("a/1.m4s", 1, 2000)) == (b"two" * 1000)[1:2000]
    files.write("a/2.m4s", b"")
    files.keep_only("a", {"a/2.m4s"})
    assert sorted(path.name for path in (tmp_path / "videos").rglob("a/*")) == ["2.m4s"]
    for _ in range(2):
        files.remove_folder("a")
    with pytest.raises(FilesUnavailable):
        files.read("a/2.m4s")
    assert files.read("b/1.m4s") == b"two" * 1000


def test_only_the_server_s_user_looks_into_the_folders(tmp_path) -> None:
    files = LocalFiles(tmp_path / "videos")
    files.write("a/1.m4s", b"")
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (tmp_path / "videos", tmp_path / "videos" / "a")} == {
        0o700
    }


def test_the_two_are_what_they_seem(tmp_path) -> None:
    assert isinstance(open_files(str(tmp_path), tmp_path), LocalFiles)
    assert isinstance(open_files(f"file://{tmp_path}/x", tmp_path), LocalFiles)
    assert isinstance(open_files(f"file://localhost{tmp_path}/x", tmp_path), LocalFiles)
    assert isinstance(open_files(f"dir::file://{tmp_path}", tmp_path), RemoteFiles)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense://videos", "nonsense"),
        ("memory://videos", "memory does not outlive"),
        ("dir::memory://videos", "memory does not outlive"),
        ("file://videos", "three slashes"),
        ("file:", "three slashes"),
    ],
)
def test_a_place_that_cannot_work_is_named(tmp_path, monkeypatch, url, reason) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FilesError, match=reason):
        open_files(url, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/.", "", "a/\0", "a/\u2603"])
def test_no_name_leads_out_of_the_folder(tmp_path, name) -> None:
    files = LocalFiles(tmp_path / "in")
    for use in (files.read, lambda n: files.write(n, b""), files.size, files.remove_folder):
        with pytest.raises(FilesUnavailable):
            use(name)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_part(tmp_path) -> None:
    """A real kernel limit in a separate process; nothing is patched."""
    files = LocalFiles(tmp_path)
    files.write("a/1", b"old")
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "full True\n", run.stderr
    assert files.read("a/1") == b"old" and [path.name for path in (tmp_path / "a").iterdir()] == ["1"]


def test_it_is_safe_on_disk_before_write_returns(tmp_path, monkeypatch) -> None:
    """First the data, then the name, then the folder's entry: in any other order a power cut could lose the file."""
    done = []
    fsync, replace = os.fsync, os.replace

    def kind(handle: int) -> str:
        return "folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "data"

    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(kind(handle)), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("name"), replace(*paths)))
    LocalFiles(tmp_path).write("a/1", b"x")
    assert done == ["data", "name", "folder"]
