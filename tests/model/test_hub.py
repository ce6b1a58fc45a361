"""Promise: hub ids refer to files in Pafu's own cache folder, which the hub's library reads and writes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints import hub
from model.checkpoints.errors import WeightsError
from model.spec import LONGLIVE, SELF_FORCING, TEST_WAN, WAN_BASE, WAN_PARTS

COMMIT, LATER = "a" * 40, "b" * 40
REPO = SELF_FORCING.source.repo if SELF_FORCING.source else ""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(hub.CACHE_VARIABLE, str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def stored(cache: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """A repository in the library's layout: blobs, a snapshot of links, a branch."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for name, content in files.items():
        blob = folder / "blobs" / f"{commit[:4]}-{name.replace('/', '-')}"
        blob.write_bytes(content)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return folder / "snapshots" / commit


def test_a_name_stands_for_its_weights_and_the_familys_other_parts() -> None:
    assert [each.repo for each in hub.wanted("self-forcing")] == [REPO, WAN_BASE]
    assert hub.wanted(f"{REPO}@v2")[0].revision == "v2" and hub.wanted(WAN_BASE)[0].files[1:] == WAN_PARTS
    assert hub.wanted("somebody/wan-diffusers") == [hub.Wanted("somebody/wan-diffusers", hub.WHOLE)]
    with pytest.raises(
        WeightsError, match="'pafu-mini' has no weights to pull: models that can be pulled: wan2.1-1.3b"
    ):
        hub.wanted("pafu-mini")
    with pytest.raises(WeightsError, match="neither a model nor an owner/name"):
        hub.wanted("self forcing")


def test_what_is_in_the_cache_is_served_without_a_network(cache: Path) -> None:
    folder = stored(cache, REPO, {"checkpoints/self_forcing_dmd.pt": b"pickle"})
    with pytest.raises(WeightsError, match="downloaded but not converted: run `pafu pull self-forcing` again"):
        hub.locate(REPO, SELF_FORCING)
    (folder / "checkpoints" / "self_forcing_dmd.safetensors").write_bytes(b"tensors")
    assert hub.locate(REPO, SELF_FORCING) == folder / "checkpoints" / "self_forcing_dmd.safetensors"
    assert hub.locate(f"{REPO}@{COMMIT}", SELF_FORCING).exists()
    with pytest.raises(WeightsError, match="is no path, and was not pulled yet: run `pafu pull self-forcing@v9`"):
        hub.locate(f"{REPO}@v9", SELF_FORCING)


def test_base_and_lora_are_served_together(cache: Path) -> None:
    assert LONGLIVE.source
    folder = stored(cache, LONGLIVE.source.repo, dict.fromkeys(LONGLIVE.source.files, b"pickle"))
    for name in ("longlive_base", "lora"):
        (folder / "models" / f"{name}.safetensors").write_bytes(b"tensors")
    assert hub.locate(LONGLIVE.source.repo, LONGLIVE) == folder / "models"


def test_the_library_finds_what_was_pulled_and_its_commit_stays_in_use(cache: Path) -> None:
    wanted = hub.Wanted("somebody/wan", ("*.safetensors",))
    first = stored(cache, wanted.repo, {"a.safetensors": b"1"})
    assert hub.pull(wanted) == first and hub.pinned(wanted.repo) == COMMIT
    later = stored(cache, wanted.repo, {"a.safetensors": b"2"}, LATER)
    assert hub.pull(wanted) == hub.pulled(wanted) == first
    assert hub.pull(hub.Wanted(wanted.repo, wanted.files, "main")) == later and hub.pinned(wanted.repo) == LATER


def test_half_a_download_is_named(cache: Path) -> None:
    stored(cache, REPO, {"README.md": b"hello"})
    with pytest.raises(WeightsError, match="lacks checkpoints/self_forcing_dmd.pt: run `pafu pull"):
        hub.locate(REPO, SELF_FORCING)
    folder = cache / "models--somebody--wan"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "abc.incomplete").write_bytes(b"ha")
    with pytest.raises(WeightsError, match="is incomplete: run `pafu pull somebody/wan`, which resumes it"):
        hub.locate("somebody/wan", SELF_FORCING)


def test_without_a_network_and_without_a_copy_one_line_says_so() -> None:
    with pytest.raises(WeightsError, match="^nobody/nothing is not downloaded, and HF_HUB_OFFLINE is set: pull it on"):
        hub.pull(hub.Wanted("nobody/nothing", ("*",)))


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "PAFU_HUB_CACHE"])
def test_without_a_home_folder_none_called_tilde_is_made(variable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAFU_HUB_CACHE", raising=False)
    monkeypatch.setenv(variable, "~nobody-here/hub")
    with pytest.raises(WeightsError, match="no home folder; set PAFU_HUB_CACHE"):
        hub.pull(hub.wanted("causvid")[0])
    assert not list(tmp_path.iterdir())


def test_paths_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gdhe17" / "Self-Forcing").mkdir(parents=True)
    assert not hub.is_hub_id(REPO) and hub.locate(REPO, TEST_WAN) == Path(REPO)
    assert not hub.is_hub_id("/weights/wan") and not hub.is_hub_id("./a/b") and hub.is_hub_id("a/b@main")
    assert not hub.is_hub_id("wan/gone.safetensors"), "a missing file is told as missing"


class Hub(http.server.BaseHTTPRequestHandler):
    """A minimal hub for a download: one commit with one file, with range requests."""

    content = b""
    drop_after: int | None = None
    refusal: tuple[int, str] | None = None  # status and code, for every request
    sent = 0  # files
    asked: list[tuple[str, str | None, str | None]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if self.refusal is not None:
            return self._say(b"{}", {"X-Error-Code": self.refusal[1]}, self.refusal[0])
        if "/api/models/" in self.path:
            drop, Hub.drop_after = Hub.drop_after, None
            self._say(self._listing(), {})
            Hub.drop_after = drop
            return
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        etag = {"ETag": '"feed"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if begin:
            etag["Content-Range"] = f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}"
        self._say(self.content[begin:], etag, 206 if begin else 200)

    def _listing(self) -> bytes:
        file = {
            "type": "file",
            "path": "a.safetensors",
            "rfilename": "a.safetensors",
            "size": len(self.content),
            "oid": "feed",
        }
        if "/tree/" in self.path:
            return json.dumps([file]).encode()
        return json.dumps({"id": "somebody/wan", "sha": COMMIT, "siblings": [file]}).encode()

    def _say(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            Hub.sent += "resolve" in self.path
            kept, Hub.drop_after = body[: Hub.drop_after], None
            self.wfile.write(kept)
            self.close_connection = len(kept) < len(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    save_file({"a": torch.arange(5000.0)}, tmp_path / "content.safetensors")
    Hub.content, Hub.asked, Hub.refusal = (tmp_path / "content.safetensors").read_bytes(), [], None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    url = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield
    server.shutdown()
    server.server_close()


def test_a_dropped_connection_goes_on_at_its_byte_with_the_token_of_the_environment(
    endpoint: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    Hub.drop_after = 1000
    folder = hub.pull(hub.Wanted("somebody/wan", ("*.safetensors",)))
    assert folder.name == COMMIT and (folder / "a.safetensors").read_bytes() == Hub.content
    files = [(range_, token) for path, range_, token in Hub.asked if "resolve" in path]
    assert ("bytes=1000-", "Bearer hf_secret") in files


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((404, "RepoNotFound"), "is not on the hub, or is private: check its name; for a private one set HF_TOKEN"),
        ((404, "RevisionNotFound"), "has no revision 'v9': name another one after the @"),
        ((403, "GatedRepo"), "is gated: accept its terms on the hub and set HF_TOKEN"),
        ((501, ""), "is not downloaded, and the hub fails with status 501: try again later"),
    ],
)
def test_what_the_hub_refuses_is_one_line(endpoint: None, refusal: tuple[int, str], said: str) -> None:
    Hub.refusal = refusal
    with pytest.raises(WeightsError) as refused:
        hub.pull(hub.Wanted("somebody/wan", ("*.safetensors",), "v9"))
    assert str(refused.value) == f"somebody/wan {said}"


def test_a_hub_that_cannot_be_reached_is_one_line(endpoint: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        WeightsError, match="^somebody/wan is not downloaded, and the hub cannot be reached: pull it on"
    ):
        hub.pull(hub.Wanted("somebody/wan", ("*.safetensors",)))


def test_a_stopped_pull_goes_on_with_the_files_that_are_missing(endpoint: None) -> None:
    wanted = hub.Wanted("somebody/wan", ("*.safetensors",))
    hub.pull(wanted)
    Hub.sent = 0
    (hub.pull(wanted) / "a.safetensors").unlink()
    assert (hub.pull(wanted) / "a.safetensors").read_bytes() == Hub.content
    assert not Hub.sent  # the blob was there already
