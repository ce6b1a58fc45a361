"""Promise: players without WebSocket can watch by low-latency HLS: the same chunks, from a small window."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import av
import httpx
import numpy as np
import pytest

from model.spec import TEST_TINY
from server.access import keys
from server.errors import PafuError
from server.http.proxies import without_token
from server.live import hls_output
from server.live.hls import KEPT, LISTED, WITH_PARTS, HlsWindow

EACH = 2  # chunks in a segment: a second at least, of 0.75 each


def filled(chunks: range) -> HlsWindow:
    window = HlsWindow(TEST_TINY)
    for index in chunks:
        window.add(index, 12, bytes([index % 256]))
    return window


def test_a_playlist_has_what_the_standard_asks_for() -> None:
    lines = filled(range(7)).playlist().splitlines()
    assert lines[0] == "#EXTM3U" and "#EXT-X-TARGETDURATION:2" in lines and "#EXT-X-MEDIA-SEQUENCE:0" in lines
    assert "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=2.25,HOLD-BACK=6" in lines
    assert "#EXT-X-PART-INF:PART-TARGET=0.75" in lines and '#EXT-X-MAP:URI="init.mp4"' in lines
    assert lines[10:14] == [
        *(f'#EXT-X-PART:DURATION=0.75,URI="part{index}.m4s",INDEPENDENT=YES' for index in (2, 3)),
        "#EXTINF:1.5,",
        "segment1.m4s",
    ]
    assert lines[-2:] == [
        '#EXT-X-PART:DURATION=0.75,URI="part6.m4s",INDEPENDENT=YES',
        '#EXT-X-PRELOAD-HINT:TYPE=PART,URI="part7.m4s"',
    ]


def test_the_end_closes_the_last_segment_and_the_list() -> None:
    window = filled(range(7))
    window.end()
    assert window.playlist().splitlines()[-3:] == ["#EXTINF:0.75,", "segment3.m4s", "#EXT-X-ENDLIST"]
    assert window.segment(3) == bytes([6])


def test_the_window_is_bounded_however_long_it_runs_and_older_pieces_are_gone() -> None:
    window = filled(range(1000))
    text, newest = window.playlist(), 999 // EACH
    assert f"#EXT-X-MEDIA-SEQUENCE:{newest - LISTED + 1}\n" in text
    assert text.count("#EXTINF") == LISTED and text.count("#EXT-X-PART:") == WITH_PARTS * EACH
    assert window.segment(newest - KEPT) is None and window.part(EACH * (newest - KEPT)) is None
    assert window.segment(newest - KEPT + 1) is not None


def test_players_start_within_a_segment_when_they_join_or_miss_a_chunk() -> None:
    joined = filled(range(3, 9))
    assert joined.segment(1) == bytes([3]) and "#EXT-X-MEDIA-SEQUENCE:1\n" in joined.playlist()
    assert joined.playable
    joined.add(21, 12, b"x")
    assert joined.part(7) is None and joined.part(21) == b"x" and not joined.playable
    assert f"#EXT-X-MEDIA-SEQUENCE:{21 // EACH}\n" in joined.playlist()


def test_it_knows_what_the_playlist_has_and_refuses_what_is_too_far_ahead() -> None:
    window = filled(range(7))  # segments 0 to 2, and part 0 of segment 3
    assert window.has(2, None) and window.has(2, 9) and window.has(3, 0)
    assert not window.has(3, None) and not window.has(3, 1) and not window.has(4, 0)
    with pytest.raises(PafuError, match="allowed: up to 5") as refused:
        window.has(6, None)
    assert refused.value.param == "_HLS_msn"


def test_a_first_chunk_that_is_shorter_is_told_so() -> None:
    short = HlsWindow(TEST_TINY)
    short.add(0, 9, b"")
    assert 'DURATION=0.5625,URI="part0.m4s"' in short.playlist()


def test_the_log_of_requests_has_no_token() -> None:
    assert without_token("/v1/live/sess_1/hls/secret/part1.m4s") == "/v1/live/sess_1/hls/.../part1.m4s"
    assert without_token("/v1/videos/video_1/content") == "/v1/videos/video_1/content"


# ---- over HTTP


class Live:
    """An owner who plays only as far as told, and a player's HTTP requests."""

    def __init__(self, server: Any, viewer: Any, start: dict[str, Any], client: httpx.AsyncClient) -> None:
        self.server, self.viewer, self.start, self.client = server, viewer, start, client
        self.path = start["hls"]

    async def play(self, chunks: int) -> None:
        """Receive and play this many more chunks."""
        for _ in range(chunks):
            await self.viewer.until("video.chunk_metadata")
            told = [m for m in self.viewer.messages if m["type"] == "video.chunk_metadata"]
            await self.viewer.send({"type": "session.playback", "position_seconds": 0.75 * len(told)})

    async def ask(self, name: str = "live.m3u8", **query: int) -> httpx.Response:
        return await self.client.get(self.path.replace("live.m3u8", name), params=query)

    async def first(self) -> str:
        """The first playlist, while the owner plays on."""
        asked = asyncio.create_task(self.ask())
        while not asked.done():
            await self.play(1)
        assert asked.result().status_code == 200, asked.result().text
        return asked.result().text


@contextlib.asynccontextmanager
async def live(server: Any, viewer_of: Any, **headers: str) -> AsyncIterator[Live]:
    async with (
        server.connect(additional_headers=headers) as socket,
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client,
    ):
        viewer = viewer_of(socket)
        start = await viewer.start(seed=3, streaming_buffer_seconds=1)
        assert start["type"] == "video.start", start
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        yield Live(server, viewer, start, client)


def newest_part(playlist: str) -> int:
    return int(re.findall(r'URI="part(\d+)\.m4s",INDEP', playlist)[-1])


class Player(threading.Thread):
    """PyAV reads the address, as ffplay and ffmpeg do."""

    def __init__(self, url: str, started: asyncio.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._begun, self._loop = url, started, asyncio.get_running_loop()
        self.pictures: list[np.ndarray] = []
        self.first = -1  # index of the first picture
        self.done = asyncio.Event()

    def run(self) -> None:
        try:
            with av.open(self._url) as container:
                for frame in container.decode(video=0):
                    if not self.pictures:
                        self.first = round(frame.pts * frame.time_base * TEST_TINY.fps)
                        self._loop.call_soon_threadsafe(self._begun.set)
                    self.pictures.append(frame.to_ndarray(format="rgb24"))
        finally:
            self._loop.call_soon_threadsafe(self._begun.set)
            self._loop.call_soon_threadsafe(self.done.set)


async def test_ffmpeg_plays_the_address_and_sees_the_pictures_that_the_viewer_saw(server, viewer_of, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with live(server, viewer_of) as owner:
        await owner.first()
        started = asyncio.Event()
        player = Player(server.url + owner.path, started)
        player.start()
        await started.wait()
        await owner.play(EACH)
        await owner.viewer.send({"type": "session.stop"})
        await owner.viewer.until("session.done")
        await player.done.wait()
        seen = owner.viewer.pictures()
    assert player.first >= 0 and len(player.pictures) > EACH * 12
    assert player.first + len(player.pictures) == len(seen)
    assert np.array_equal(np.stack(player.pictures), seen[player.first :])


async def test_a_playlist_is_held_back_until_it_has_the_part_that_was_asked_for(server, viewer_of) -> None:
    async with live(server, viewer_of) as owner:
        newest = newest_part(await owner.first())
        wanted = newest + 3
        number, part = divmod(wanted, EACH)
        asked = asyncio.create_task(owner.ask(_HLS_msn=number, _HLS_part=part))
        hinted = asyncio.create_task(owner.ask(f"part{newest + 1}.m4s"))
        while not asked.done():
            await owner.play(1)
        assert newest_part(asked.result().text) >= wanted
        assert (await hinted).content in owner.viewer.fragments
        kinds = {name: (await owner.ask(name)).headers["content-type"] for name in ("live.m3u8", "init.mp4")}
        assert kinds == {"live.m3u8": "application/vnd.apple.mpegurl", "init.mp4": "video/mp4"}
        far = await owner.ask(_HLS_msn=number + 9)
        assert (far.status_code, far.json()["error"]["param"]) == (400, "_HLS_msn")
        gone = await owner.ask("segment999.m4s")
        assert gone.status_code == 404 and "read live.m3u8 again" in gone.json()["error"]["message"]


async def test_players_of_a_paused_session_are_told_to_wait_and_no_window_is_kept(server, viewer_of, monkeypatch):
    monkeypatch.setattr(hls_output, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(hls_output, "IDLE_SECONDS", 0.3)
    async with live(server, viewer_of) as owner:
        await owner.viewer.until("video.chunk_metadata")
        await owner.viewer.send({"type": "session.pause"})
        await owner.viewer.until("session.paused")
        waits = await owner.ask()
        assert (waits.status_code, waits.json()["error"]["code"]) == (503, "not_ready") and waits.headers["retry-after"]
        assert owner.server.front.sessions.get(owner.start["session_id"]).viewers == 2
        while owner.server.front.sessions.get(owner.start["session_id"]).viewers == 2:
            await asyncio.sleep(0.02)


async def test_the_whole_address_opens_without_a_key_as_long_as_its_owner_has_one(serve, viewer_of, tmp_path):
    path = tmp_path / "keys.toml"
    alice = {"authorization": f"Bearer {keys.add(path, 'alice', {})}"}
    keys.add(path, "bob", {})
    server = await serve(keys_file=path)
    async with live(server, viewer_of, **alice) as owner:
        await owner.first()
        sessions = (await owner.client.get("/v1/sessions", headers=alice)).json()["data"]
        assert [session["hls"] for session in sessions] == [owner.path]
        token = owner.path.split("/")[5]
        for other in (owner.path.replace(token, token[::-1]), owner.path.replace("sess_", "sess_0")):
            refused = await owner.client.get(other)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_session")
        assert (await owner.client.post(owner.path)).status_code == 401
        keys.remove(path, "alice")
        assert (await owner.ask()).status_code == 404
