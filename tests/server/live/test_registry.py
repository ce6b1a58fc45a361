"""Promise: a session outlives its connection, its worker and its server, and resources are never overcommitted."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import json
import os
import signal
import stat
import time
import types
import urllib.error
import urllib.request

import av
import httpx
import numpy as np
import pytest
import websockets

from model.spec import TEST_TINY, spec_named
from server.access.limits import ANONYMOUS
from server.config import Settings
from server.engine.admission import Account, cache_bytes, no_place
from server.engine.line import Line
from server.ipc.messages import CacheChoice, Open
from server.live.archive import Archive
from server.telemetry.observer import Observer

WISH = {"seed": 4, "prompt": "the camera pans left", "num_frames": 72}
KEEP = {"keep_on_device": 30.0, "keep_on_disk": 60.0}
CACHE = CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)
PATIENCE = 120.0


def indices(viewer) -> list[int]:
    """Indices of the chunks received whole."""
    chunks = [m["transport_chunk_index"] for m in viewer.messages if m["type"] == "video.chunk_metadata"]
    return chunks[: len(viewer.fragments)]


def resume_message(viewer, **more) -> dict:
    start = next(m for m in viewer.messages if m["type"] == "video.start")
    named = {"session_id": start["session_id"], "token": start["resume_token"]}
    return {"type": "session.resume", **named, "last_chunk_index": len(viewer.fragments) - 1, **more}


async def begun(server, viewer_of, chunks: int = 2, **fields):
    """A viewer whose connection breaks after this many chunks; it reports its playhead."""
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        assert (await viewer.start(**{**WISH, **fields}))["type"] == "video.start"
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        for _ in range(chunks):
            await viewer.until("video.chunk_metadata")
            await viewer.send({"type": "session.playback", "position_seconds": 0.75 * len(viewer.fragments)})
        while len(viewer.fragments) < chunks:
            await viewer.next()
        socket.transport.abort()
    return viewer


async def refused(server, viewer_of, message):
    """A viewer whose connection ends with an error; the error and the close code."""
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(message)
        return viewer, await viewer.until("error"), await viewer.closed()


async def play_out(viewer) -> dict:
    """Play to the end at once; returns the last message."""
    while (message := await viewer.next())["type"] != "session.done":
        with contextlib.suppress(websockets.ConnectionClosed):  # its last words are still to be read
            await viewer.send({"type": "session.playback", "position_seconds": 0.75 * len(viewer.fragments)})
    return message


async def held_back(viewer, **fields) -> dict:
    """Start and play nothing: two chunks are generated, perhaps a third before the server notices, then none."""
    start = await viewer.start(**{**WISH, **fields})
    await viewer.send({"type": "session.playback", "position_seconds": 0})
    while len(viewer.fragments) < 2:
        await viewer.send({"type": "session.ping"})
        await viewer.until("session.pong")
    return start


async def change(viewer, event_id: str, prompt: str) -> None:
    asked = {"event_id": event_id, "event": {"prompt": prompt}}
    await viewer.send({"type": "session.interaction", "interaction": asked})
    assert (await viewer.until("session.interaction.queued"))["event_id"] == event_id


async def rest(server, viewer_of, message):
    """The second half of a film, over another connection."""
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(message)
        start = await viewer.until("video.start")
        assert start["resumed"] is True and start["next_chunk_index"] == message["last_chunk_index"] + 1
        await viewer.until("session.done")
    return viewer


async def status_becomes(server, status: str) -> dict:
    async with asyncio.timeout(PATIENCE):
        while True:
            _, listed = await ask(server, "/v1/sessions")
            if listed["data"] and listed["data"][0]["status"] == status:
                return listed["data"][0]
            await asyncio.sleep(0.01)


async def ask(server, path: str, method: str = "GET") -> tuple[int, dict]:
    def call() -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(urllib.request.Request(server.url + path, method=method)) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(call)


def whole_film(first, second) -> np.ndarray:
    return np.concatenate([first.pictures(), second.pictures()]).astype(int)


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal up to the differences of a fresh encoder; a missing or repeated picture differs by 9 or more."""
    return one.shape == two.shape and np.abs(one - two.astype(int)).mean(axis=(1, 2, 3)).max() < 1.5


@pytest.mark.parametrize(("keep", "status"), [(30.0, "suspended"), (0.0, "parked")])
async def test_a_dropped_viewer_resumes_without_a_repeated_or_missing_picture(serve, viewer_of, keep, status) -> None:
    server = await serve(keep_on_device=keep, keep_on_disk=60.0)
    undisturbed = await server.watch(**WISH)
    first = await begun(server, viewer_of)
    seen = await status_becomes(server, status)
    assert (server.engine.status().cache_held_bytes > 0) == (status == "suspended") == (seen["cache"]["bytes"] > 0)
    second = await rest(server, viewer_of, resume_message(first))
    assert indices(first) + indices(second) == [0, 1, 2, 3, 4, 5]
    assert same(whole_film(first, second), undisturbed.pictures())
    await server.empties()
    assert list(server.front.settings.data_dir.glob("sessions/*")) == []


async def test_a_session_survives_a_restart_of_the_server(serve, viewer_of, tmp_path) -> None:
    server = await serve(**KEEP, data_dir=tmp_path / "data")
    undisturbed = await server.watch(**WISH)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(**WISH)
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        await viewer.until("video.chunk_metadata")
        stopping = asyncio.create_task(server.stop())
        done = await viewer.until("session.done")
        assert (done["reason"], done["resumable"]) == ("server_shutdown", True)
        assert await viewer.closed() == 1012
        await stopping
    files = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    token = viewer.messages[0]["resume_token"].encode()
    assert files and not any(token in file for file in files), "who can read the disk cannot take the session"
    other = await serve(**KEEP, data_dir=tmp_path / "data")
    second = await rest(other, viewer_of, resume_message(viewer))
    assert same(whole_film(viewer, second), undisturbed.pictures())


async def test_a_change_that_waits_when_the_server_stops_is_shown_by_the_next_one(serve, viewer_of, tmp_path) -> None:
    server = await serve(**KEEP, data_dir=tmp_path / "data")
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer)
        await change(viewer, "evt_1", "after")
        stopping = asyncio.create_task(server.stop())
        assert (await viewer.until("session.done"))["resumable"] is True
        await viewer.closed()
        await stopping
    assert not [m for m in viewer.messages if m["type"] == "session.interaction.rejected"]
    other = await serve(**KEEP, data_dir=tmp_path / "data")
    second = await rest(other, viewer_of, resume_message(viewer))
    applied = next(m for m in second.messages if m["type"] == "session.interaction.applied")
    chunks = {m["transport_chunk_index"]: m for m in second.messages if m["type"] == "video.chunk_metadata"}
    shows = chunks[applied["chunk_index"]]
    assert applied["event_id"] == "evt_1" and shows["started_event_ids"] == ["evt_1"]
    assert shows["stats"]["prompt"] == chunks[5]["stats"]["prompt"] == "after"
    assert indices(viewer) + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_a_change_that_waits_when_the_session_ends_with_the_server_is_rejected(serve, viewer_of) -> None:
    server = await serve()  # keeps nothing
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer)
        await change(viewer, "evt_1", "after")
        stopping = asyncio.create_task(server.stop())
        assert (await viewer.until("session.interaction.rejected"))["event_id"] == "evt_1"
        assert (await viewer.until("session.done"))["resumable"] is False
        await stopping


async def test_a_server_that_cannot_write_the_state_in_time_still_loses_no_picture(serve, viewer_of, tmp_path) -> None:
    """The worker hangs while the server stops; the front's data is on disk by then."""
    server = await serve(**KEEP, data_dir=tmp_path / "data", shutdown_timeout=1.0)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer)
        os.kill(server.engine.status().workers[0].pid, signal.SIGSTOP)
        await server.stop()
        with contextlib.suppress(websockets.ConnectionClosed):
            await viewer.until("session.done")
    other = await serve(**KEEP, data_dir=tmp_path / "data")
    second = await rest(other, viewer_of, resume_message(viewer))
    assert indices(viewer) + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_a_snapshot_without_its_record_is_not_mistaken_for_it(serve, viewer_of, tmp_path) -> None:
    """Killed between the two writes: the state on disk is newer than the front's record, and must not be used with
    it."""
    server = await serve(**KEEP, data_dir=tmp_path / "data")
    first = await begun(server, viewer_of)
    (session,) = server.front.sessions
    await status_becomes(server, "suspended")
    record = (tmp_path / "data" / "sessions" / f"{session.id}.session").read_bytes()
    again = await server.front.sessions.resume(session.id, resume_message(first)["token"], ANONYMOUS)
    await again.own("m4s", 1)
    async with asyncio.timeout(PATIENCE):
        while session.next_index < 4:
            await asyncio.sleep(0.01)
    await session._life.engine_session.park(session._files.snapshot_path)  # the worker's half of parking, and no more
    async with asyncio.timeout(PATIENCE):
        while not list((tmp_path / "data").rglob("*.safetensors")):
            await asyncio.sleep(0.01)
    await server.stop()
    (tmp_path / "data" / "sessions" / f"{session.id}.session").write_bytes(record)
    other = await serve(**KEEP, data_dir=tmp_path / "data")
    second = await rest(other, viewer_of, resume_message(first))
    assert same(whole_film(first, second), (await other.watch(**WISH)).pictures())


async def test_a_refused_return_from_disk_leaves_nothing_that_is_kept_for_ever(serve, viewer_of, tmp_path) -> None:
    server = await serve(**KEEP, data_dir=tmp_path / "data")
    viewer = await begun(server, viewer_of)
    await status_becomes(server, "suspended")
    await server.stop()
    (path,) = (tmp_path / "data" / "sessions").glob("*.session")
    os.utime(path, (time.time() + 1000,) * 2)
    other = await serve(keep_on_device=0.0, keep_on_disk=0.05, data_dir=tmp_path / "data")
    _, error, close = await refused(other, viewer_of, resume_message(viewer, last_chunk_index=99))
    assert (error["code"], close) == ("chunk_gone", 1008)
    await other.empties()
    assert not list((tmp_path / "data" / "sessions").iterdir())


async def test_a_worker_that_dies_while_nobody_watches_costs_no_picture(serve, viewer_of) -> None:
    server = await serve(**KEEP)
    undisturbed = await server.watch(**WISH)
    first = await begun(server, viewer_of)
    await status_becomes(server, "suspended")
    os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
    second = await rest(server, viewer_of, resume_message(first))
    assert same(whole_film(first, second), undisturbed.pictures())


async def test_a_lost_snapshot_costs_exactness_and_no_picture(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.0, keep_on_disk=60.0)
    first = await begun(server, viewer_of)
    await status_becomes(server, "parked")
    (snapshot,) = server.front.settings.data_dir.glob("sessions/*.safetensors")
    snapshot.write_bytes(b"{")
    second = await rest(server, viewer_of, resume_message(first))
    assert indices(first) + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_a_full_disk_costs_exactness_and_no_picture(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.0, keep_on_disk=60.0)
    folder = server.front.settings.data_dir / "sessions"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("not a folder")
    first = await begun(server, viewer_of)
    await status_becomes(server, "parked")
    second = await rest(server, viewer_of, resume_message(first))
    assert indices(first) + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_a_session_is_resumed_only_with_its_token_and_from_a_kept_chunk(serve, viewer_of, monkeypatch) -> None:
    server = await serve(**KEEP)
    first = await begun(server, viewer_of)
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    for more, code in [
        ({"token": "guessed"}, "wrong_token"),
        ({"session_id": "sess_0123456789abcdef"}, "unknown_session"),
        ({"session_id": "../../etc/passwd"}, "unknown_session"),
        ({"last_chunk_index": -1}, "chunk_gone"),
        ({"last_chunk_index": 99}, "chunk_gone"),
        ({"token": None}, "missing_field"),
        ({"format": "webm"}, "unsupported"),
    ]:
        async with server.connect() as socket:
            viewer = viewer_of(socket)
            await viewer.send(resume_message(first, **more))
            assert (await viewer.next())["code"] == code
            assert await viewer.closed() == 1008
    await rest(server, viewer_of, resume_message(first))
    assert {one == other for one, other in compared} == {True, False}, "guesses are compared in constant time"
    assert all(len(side) == 32 for pair in compared for side in pair), "hashes, not tokens"


async def test_a_second_connection_takes_the_session_over_from_a_dead_one(serve, viewer_of) -> None:
    server = await serve(**KEEP)
    async with server.connect() as old:
        before = viewer_of(old)
        await before.start(**WISH)
        await before.send({"type": "session.playback", "position_seconds": 0})
        await before.until("video.chunk_metadata")
        await before.until("video.chunk_metadata")
        while len(before.fragments) < 2:
            await before.send({"type": "session.ping"})
            await before.next()
        after = await rest(server, viewer_of, resume_message(before))
        assert indices(after) == [2, 3, 4, 5]
        assert (await before.until("error"))["code"] == "session_taken"


async def test_who_does_not_come_back_is_forgotten(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.05, keep_on_disk=0.05)
    first = await begun(server, viewer_of)
    await server.empties()
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(resume_message(first))
        assert (await viewer.next())["code"] == "unknown_session"


async def test_pause_stands_still_and_resume_goes_on_with_the_next_chunk(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="a bar", streaming_buffer_seconds=10)
        await viewer.until("video.chunk_metadata")
        await viewer.send({"type": "session.pause"})
        paused = await viewer.until("session.paused")
        await server.watch(num_frames=60, seed=1)
        await viewer.send({"type": "session.ping"})
        await viewer.until("session.pong")
        in_hand = 2  # one is decoded while another is denoised
        assert len(viewer.fragments) <= paused["next_chunk_index"] + in_hand
        before = len(viewer.fragments)
        await viewer.send({"type": "session.resume"})
        await viewer.until("session.resumed")
        while len(viewer.fragments) <= before:
            await viewer.until("video.chunk_metadata")
        assert indices(viewer) == list(range(before + 1))


async def test_several_may_watch_one_session_and_only_its_owner_steers(server, viewer_of) -> None:
    async with server.connect() as one, server.connect() as two:
        owner, guest = viewer_of(one), viewer_of(two)
        start = await owner.start(prompt="before", seed=1)
        await owner.until("video.chunk_metadata")
        await guest.send({"type": "session.watch", "session_id": start["session_id"]})
        joined = await guest.until("video.start")
        assert "resume_token" not in joined and joined["session_id"] == start["session_id"]
        first = await guest.until("video.chunk_metadata")
        interaction = {"event_id": "x", "event": {"prompt": "mine"}}
        await guest.send({"type": "session.interaction", "interaction": interaction})
        assert (await guest.until("error"))["code"] == "not_the_owner"
        await owner.send({"type": "session.interaction", "interaction": interaction})
        while (await guest.until("video.chunk_metadata"))["stats"]["prompt"] != "mine":
            pass
        await owner.send({"type": "session.stop"})
        await owner.until("session.done")
        await guest.until("session.done")
        begin = first["transport_chunk_index"]
        assert np.array_equal(guest.pictures()[:12], owner.pictures()[12 * begin : 12 * begin + 12])


async def test_a_watcher_who_stops_ends_only_its_own_stream_and_hears_of_no_changes(server, viewer_of) -> None:
    async with server.connect() as one, server.connect() as two, server.connect() as three:
        owner, guest, stays = viewer_of(one), viewer_of(two), viewer_of(three)
        name = (await held_back(owner))["session_id"]
        for viewer in (guest, stays):
            await viewer.send({"type": "session.watch", "session_id": name})
            await viewer.until("video.start")
        await change(owner, "evt_1", "never shown")
        await guest.send({"type": "session.stop"})
        assert (await guest.until("session.done"))["reason"] == "stopped"
        assert await guest.closed() == 1000
        assert (await ask(server, f"/v1/sessions/{name}"))[1]["viewers"] == 2
        await owner.send({"type": "session.stop"})
        assert (await owner.until("session.interaction.rejected"))["event_id"] == "evt_1"
        assert (await stays.until("session.done"))["reason"] == "stopped"
    assert not [m for m in guest.messages + stays.messages if m["type"].startswith("session.interaction")]


async def test_what_one_who_looks_on_was_sent_paces_nothing(server, monkeypatch) -> None:
    sent, delivered = [], Line.delivered

    async def note(line: Line, index: int) -> None:
        sent.append(index)
        await delivered(line, index)

    monkeypatch.setattr(Line, "delivered", note)
    order = Open("sess_0123456789abcdef", "x", 1, 1.0, CACHE, None)
    session, _ = server.front.sessions.create(order, ANONYMOUS)
    owner, guest = await session.own("m4s"), await session.watch("m4s")
    async with asyncio.timeout(PATIENCE):
        for viewer, counts in ((guest, []), (owner, [0])):
            await session.next(viewer)
            await session.delivered(viewer, await session.next(viewer))
            assert sent == counts
    await session.stop()


async def test_a_session_paused_for_long_frees_its_memory_and_can_continue(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.0, keep_on_disk=60.0)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer)
        await viewer.send({"type": "session.pause"})
        await viewer.until("session.paused")
        await status_becomes(server, "parked")
        assert server.engine.status().cache_held_bytes == 0
        await viewer.send({"type": "session.resume"})
        await viewer.until("session.resumed")
        await viewer.send({"type": "session.playback", "position_seconds": 1.5})
        assert (await play_out(viewer))["reason"] == "complete"
    assert indices(viewer) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("format", ["h264", "jpeg"])
async def test_other_formats_show_the_same_pictures(server, format) -> None:
    reference = (await server.watch(num_frames=30, seed=3)).pictures().astype(int)
    viewer = await server.watch(num_frames=30, seed=3, format=format)
    sizes = [m["frame_sizes"] for m in viewer.messages if m["type"] == "video.chunk_metadata"]
    assert [len(s) for s in sizes] == [12, 12, 6] and [sum(s) for s in sizes] == [len(f) for f in viewer.fragments]
    parts = [part for data, cut in zip(viewer.fragments, sizes, strict=True) for part in split(data, cut)]
    pictures = decode_parts(format, parts)
    assert pictures.shape == reference.shape and np.abs(pictures - reference).mean() < 4
    mime = viewer.messages[0]["mime"]
    assert mime == "image/jpeg" if format == "jpeg" else mime.startswith("video/h264; codecs=avc1.")


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    ends = np.cumsum(sizes)
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def decode_parts(format: str, parts: list[bytes]) -> np.ndarray:
    if format == "jpeg":
        frames = [next(av.open(io.BytesIO(part)).decode(video=0)) for part in parts]
    else:
        decoder = av.CodecContext.create("h264", "r")
        frames = [frame for part in [*parts, None] for frame in decoder.decode(part and av.Packet(part))]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


async def test_sessions_are_listed_inspected_and_stopped(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        start = await viewer.start(prompt="a bar")
        await viewer.until("video.chunk_metadata")
        _, listed = await ask(server, "/v1/sessions")
        (session,) = listed["data"]
        assert (session["id"], session["status"], session["viewers"]) == (start["session_id"], "streaming", 1)
        assert start["resume_token"] not in json.dumps(listed)
        assert (await ask(server, f"/v1/sessions/{session['id']}"))[1]["prompt"] == "a bar"
        assert (await ask(server, f"/v1/sessions/{session['id']}", "DELETE"))[1]["deleted"] is True
        assert (await viewer.until("session.done"))["reason"] == "stopped"
    await server.empties()
    status, error = await ask(server, f"/v1/sessions/{session['id']}")
    assert (status, error["error"]["code"]) == (404, "unknown_session")


async def test_the_memory_of_caches_decides_how_many_sessions_fit(serve, viewer_of) -> None:
    one = cache_bytes(spec_named("test-tiny"), CACHE, "float32")
    server = await serve(cache_room_bytes=2 * one, max_sessions=100)
    names = set(CACHE.__struct_fields__) - {"host_latents"}  # which only the server sets
    cache = {name: getattr(CACHE, name) for name in names}
    fields = {"prompt": "a bar", "extra_params": {"cache": cache}}
    async with server.connect() as first, server.connect() as second, server.connect() as third:
        for socket in (first, second):
            assert (await viewer_of(socket).start(**fields))["type"] == "video.start"
        assert server.engine.status().cache_held_bytes == 2 * one
        refused = await viewer_of(third).start(**fields)
        assert (refused["code"], refused["retry_after_seconds"]) == ("session_rejected", 5.0)
        assert await viewer_of(third).closed() == 1013
    await server.empties()
    async with server.connect() as socket:
        huge = {"cache": {"policy": "window", "budget_latents": 100.0}}
        assert (await viewer_of(socket).start(extra_params=huge))["code"] == "cache_too_large"
    assert server.engine.status().cache_held_bytes == 0


async def test_what_no_worker_will_ever_take_is_refused_at_once_and_a_job_in_the_words_of_a_session(
    serve, viewer_of
) -> None:
    one = cache_bytes(spec_named("test-tiny"), CacheChoice.of(Settings(model="test-tiny").cache()), "float32")
    server = await serve(max_sessions=1, cache_room_bytes=2 * one)
    await server.engine.settled()
    assert "asked" not in (await ask(server, "/v1/models"))[1]["data"][0]["cache_policies"]
    impossible = {
        "no head for 'asked'": {"policy": "asked"},
        "'bf16' is for a model that computes in bfloat16": {"kv_dtype": "bf16"},
        "request a smaller budget": {"budget_latents": 200},
    }
    async with server.connect() as taken, httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        await viewer_of(taken).start()
        for words, cache in impossible.items():
            fields = {"prompt": "a", "extra_params": {"cache": cache}}
            async with server.connect() as socket:
                told = await viewer_of(socket).start(**fields)  # with a possible cache it would wait for the place
            error = (await http.post("/v1/videos", json=fields)).json()["error"]
            assert words in told["message"] == error["message"]
            assert told["code"] == error["code"] and told["param"] == error["param"]


async def test_a_waiting_viewer_is_told_its_position_and_gets_its_place_in_turn(serve, viewer_of) -> None:
    server = await serve(max_sessions=1, max_waiting=2)
    async with server.connect() as a, server.connect() as b, server.connect() as c, server.connect() as d:
        first, second, third, fourth = (viewer_of(socket) for socket in (a, b, c, d))
        await first.start()
        for place, viewer in enumerate((second, third), 1):
            told = await viewer.start(num_frames=12)
            assert told.pop("seconds", 10.0) >= 10.0, "an estimate, as soon as there is one"
            assert told == {"type": "session.queued", "position": place, "queue_depth": place}
        assert (await fourth.start())["code"] == "session_rejected"
        await first.send({"type": "session.stop"})
        await second.until("session.done")
        queued = [m["position"] for m in third.messages if m["type"] == "session.queued"]
        await third.until("session.done")
        assert [m["position"] for m in third.messages if m["type"] == "session.queued"] == [2, 1], queued
        next_one = next(m for m in third.messages if m["type"] == "session.queued" and m["position"] == 1)
        assert next_one["seconds"] >= 0, "the one before has shown how long it takes"
    await server.empties()


async def test_a_session_that_nobody_watches_makes_room_for_one_that_somebody_does(serve, viewer_of) -> None:
    server = await serve(**KEEP, max_sessions=1)
    first = await begun(server, viewer_of)
    await status_becomes(server, "suspended")
    await server.watch(num_frames=24, seed=9)
    second = await rest(server, viewer_of, resume_message(first))
    assert indices(first) + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_of_the_sessions_without_a_viewer_the_one_idle_longest_makes_room(serve, viewer_of) -> None:
    server = await serve(**KEEP, max_sessions=2)
    async with server.connect() as socket:
        older = viewer_of(socket)
        name = (await held_back(older))["session_id"]
        await begun(server, viewer_of)
        await status_becomes_of(server, {name: "streaming", None: "suspended"})
        socket.transport.abort()
    await status_becomes_of(server, {name: "suspended", None: "suspended"})
    await server.watch(num_frames=12)
    await status_becomes_of(server, {name: "suspended", None: "parked"})


async def status_becomes_of(server, wanted: dict) -> None:
    """Wait until the sessions have these states; None: the only other session."""
    async with asyncio.timeout(PATIENCE):
        while {s.id if s.id in wanted else None: s.status.value for s in server.front.sessions} != wanted:
            await asyncio.sleep(0.01)


async def test_without_a_disk_a_paused_session_keeps_its_place_while_its_viewer_is_there(serve, viewer_of) -> None:
    server = await serve(max_sessions=1)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer)
        await viewer.send({"type": "session.pause"})
        await viewer.until("session.paused")
        _, error, _ = await refused(server, viewer_of, {"type": "session.start", "prompt": "another"})
        assert error["code"] == "session_rejected"
        await viewer.send({"type": "session.resume"})
        await viewer.until("session.resumed")
        await viewer.send({"type": "session.playback", "position_seconds": 1.5})
        assert (await play_out(viewer))["reason"] == "complete"


async def test_who_comes_back_and_finds_no_place_may_come_again(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.0, keep_on_disk=60.0, max_sessions=1, queue_timeout=0.2)
    first = await begun(server, viewer_of)
    await status_becomes(server, "parked")
    async with server.connect() as socket:
        await held_back(viewer_of(socket))
        back, error, close = await refused(server, viewer_of, resume_message(first))
        assert (error["code"], error["retry_after_seconds"], close) == ("session_rejected", 5.0, 1013)
        await socket.send(json.dumps({"type": "session.stop"}))
        await viewer_of(socket).closed()
    seen = indices(first) + indices(back)  # what was made before is shown at once
    second = await rest(server, viewer_of, resume_message(first, last_chunk_index=seen[-1]))
    assert seen + indices(second) == [0, 1, 2, 3, 4, 5]


async def test_the_end_that_was_asked_for_is_not_forgotten_with_the_worker(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await held_back(viewer, num_frames=None)
        os.kill(server.engine.status().workers[0].pid, signal.SIGSTOP)
        await viewer.send({"type": "session.stop"})
        await viewer.send({"type": "session.ping"})
        await viewer.until("session.pong")
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
        assert (await viewer.until("session.done"))["reason"] == "stopped"


async def test_a_live_session_displaces_a_job_which_goes_on_later(serve) -> None:
    server = await serve(max_sessions=1)
    await server.engine.settled()
    order = Open(session="job_1", prompt="x", seed=1, lead_seconds=1e9, cache=CACHE, pictures=10_000, background=True)
    line = await server.engine.open(order)
    await server.watch(num_frames=24, seed=9)
    events = [event async for event in line.events()]
    assert (events[-1].code, events[-1].reason) == ("preempted", "failed")
    await server.engine.open(order)


def test_the_account_counts_bytes_and_sessions() -> None:
    account = Account(most=3)
    account.room = 100
    order = Open(session="a", prompt="", seed=0, lead_seconds=1, cache=CACHE, pictures=None)
    account.hold(order, 40)
    assert account.fits(60) and not account.fits(61)
    refused = no_place(61, [account], None)
    assert "all cache memory is in use" in refused.message
    assert refused.kind.status == 429 and refused.headers() == {"retry-after": "5"}
    account.free("a")
    account.free("a")
    assert account.held_bytes == 0


def test_the_newest_jobs_make_room_for_a_viewer_and_no_more_of_them_than_must() -> None:
    account = Account(most=4)
    account.room = 100
    for name, size in (("old", 30), ("viewer", 30), ("new", 30)):
        background = name != "viewer"
        account.hold(Open(name, "", 0, 1, CACHE, None, background=background), size)
    assert account.to_displace(10) == []
    assert account.to_displace(40) == ["new"]
    assert account.to_displace(41) == ["new", "old"]
    assert account.to_displace(71) is None, "no viewer makes room for another"
    account.most = 3
    assert account.to_displace(10) == ["new"], "it has the bytes, and no place"
    assert account.to_displace(10, least=2) == ["new", "old"]


def test_the_price_of_a_session_is_what_its_cache_allocates() -> None:
    from server.worker.generator import ModelGenerator, load_model

    model, weights = load_model("test-tiny", None, "cpu")
    generator = ModelGenerator(model, weights, "cpu", {})
    stream = generator.open("a house", 1, CACHE)
    assert stream.next_chunk().stats.cache_bytes == cache_bytes(TEST_TINY, CACHE, generator.dtype)


def test_only_the_server_s_user_looks_into_the_folder_of_sessions(tmp_path) -> None:
    Archive(tmp_path / "sessions", keep=60.0, observer=Observer(TEST_TINY)).prepare(in_use={})
    assert stat.S_IMODE((tmp_path / "sessions").stat().st_mode) == 0o700


def test_old_session_files_are_swept_except_those_in_use_whatever_the_clock_says(tmp_path) -> None:
    archive = Archive(tmp_path, keep=60.0, observer=Observer(TEST_TINY))
    used, lost, fresh = (f"sess_{number:016x}" for number in range(3))
    names = [f"{lost}.session", f"{lost}.safetensors", f"{lost}.session.7.part", f"{used}.safetensors", "notes.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f"{fresh}.session").write_bytes(b"")
    archive.prepare(in_use={used})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["notes.txt", f"{used}.safetensors", f"{fresh}.session"]
    )


async def test_a_viewer_who_pauses_is_not_thrown_out_for_those_who_left(serve, viewer_of) -> None:
    server = await serve(keep_on_device=0.0, keep_on_disk=60.0, max_kept=2)
    async with server.connect() as socket:
        here = viewer_of(socket)
        await here.start(**WISH)
        await here.until("video.chunk_metadata")
        await here.send({"type": "session.pause"})
        await here.until("session.paused")
        async with asyncio.timeout(PATIENCE):
            while [session.status.value for session in server.front.sessions] != ["parked"]:
                await asyncio.sleep(0.01)
        gone = [(await begun(server, viewer_of, chunks=1)) for _ in range(4)]
        left = {session.id for session in server.front.sessions}
        ids = [next(m["session_id"] for m in viewer.messages if "session_id" in m) for viewer in (here, *gone)]
        assert ids[0] in left and len(left) <= 1 + 2 + 1, "only who is gone ends, the oldest first"
        assert ids[1] not in left and ids[-1] in left
        await here.send({"type": "session.resume"})
        await here.until("session.resumed")
        await here.until("session.done")


async def test_what_one_caller_abandons_ends_no_session_of_another(server, monkeypatch) -> None:
    ended = []
    kept = [
        types.SimpleNamespace(
            caller=caller, viewers=0, idle_since=since, expire=lambda who=(caller, since): ended.append(who)
        )
        for since, caller in enumerate(["alice", "bob", "bob", "alice", "bob"])
    ]
    sessions = server.front.sessions
    monkeypatch.setattr(sessions, "_live", dict(enumerate(kept)))
    monkeypatch.setattr(sessions, "_settings", sessions._settings.model_copy(update={"max_kept": 2}))
    sessions._bound("bob")
    assert ended == [("bob", 1)]
    sessions._bound("alice")
    assert ended == [("bob", 1)]
    monkeypatch.setattr(sessions, "_live", {})
