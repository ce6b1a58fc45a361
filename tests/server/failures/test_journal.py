"""Promise: kill -9 of the front at any moment costs viewers no picture; journals disturb no stream."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import re
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
import websockets
from websockets.asyncio.client import connect

from model.spec import TEST_TINY
from server.access.limits import ANONYMOUS
from server.ipc.messages import CacheChoice, Interact, Open
from server.live import journal
from server.live.archive import Archive
from server.live.journal import FRAME, Journal, JournalFile, JournalHost, SessionInUse, framed, parts_of
from server.live.session_state import SessionState
from server.telemetry.observer import Observer

KEEP = {"keep_on_device": 30.0, "keep_on_disk": 60.0, "max_sessions": 8}
WISH = {"seed": 4, "prompt": "the camera pans left", "num_frames": 240}  # 20 chunks
CHUNK = 0.75  # seconds of video
PATIENCE = 120.0
MOMENT = 0.02  # seconds; a fast machine makes a chunk of the pattern in less, and must not come to the film's end


@asynccontextmanager
async def dialled(url, viewer_of):
    """A connection, as soon as a server listens; it is broken off at the end."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                socket = await connect(url.replace("http", "ws") + "/v1/realtime/video", max_size=None, proxy=None)
                break
            except (OSError, websockets.InvalidHandshake):
                await asyncio.sleep(0.05)
    try:
        yield viewer_of(socket)
    finally:
        socket.transport.abort()


async def play(viewer, before: int, chunks: float = np.inf) -> bool:
    """Play on after ``before`` whole chunks, at once, until there are ``count``; whether the stream ended."""
    while before + len(viewer.fragments) < chunks:
        try:
            if (await viewer.next())["type"] == "session.done":
                return True
        except websockets.ConnectionClosed:
            return False
        with contextlib.suppress(websockets.ConnectionClosed):  # its last words are still to be read
            position = CHUNK * (before + len(viewer.fragments))
            await viewer.send({"type": "session.playback", "position_seconds": position})
    return False


def coming_back(start, have: int) -> dict:
    named = {"session_id": start["session_id"], "token": start["resume_token"]}
    return {"type": "session.resume", **named, "last_chunk_index": have - 1}


def chunk_indices(viewers) -> list[int]:
    """Indices of the chunks received whole, over all connections."""
    found = []
    for viewer in viewers:
        chunks = [m["transport_chunk_index"] for m in viewer.messages if m["type"] == "video.chunk_metadata"]
        found += chunks[: len(viewer.fragments)]
    return found


def film(viewers) -> np.ndarray:
    return np.concatenate([viewer.pictures() for viewer in viewers if viewer.fragments]).astype(int)


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal up to the differences of a fresh encoder; a missing or repeated picture differs by 9 or more."""
    return one.shape == two.shape and np.abs(one - two).mean(axis=(1, 2, 3)).max() < 1.5


async def test_kill_9_of_the_front_at_random_moments_costs_no_picture(killable, viewer_of, tmp_path) -> None:
    server, dice = killable(**KEEP), random.Random(7)
    async with dialled(server.url, viewer_of) as undisturbed:
        await undisturbed.start(**WISH)
        assert await play(undisturbed, 0)
    viewers, start, have = [], None, 0
    for kill_at in (1, 5, 9, None):
        async with dialled(server.url, viewer_of) as viewer:
            viewers.append(viewer)
            if start is None:
                start = await viewer.start(**WISH)
            else:
                await viewer.send(coming_back(start, have))
                again = await viewer.until("video.start")
                assert again["resumed"] and again["next_chunk_index"] == have
            if kill_at is None:
                assert await play(viewer, have)
            else:
                await play(viewer, have, kill_at)
                killing = asyncio.get_running_loop().call_later(dice.uniform(0, MOMENT), server.kill)
                assert not await play(viewer, have), "it was not killed"
                killing.cancel()
                server.start()
            have += len(viewer.fragments)
    assert chunk_indices(viewers) == list(range(20))
    assert same(film(viewers), film([undisturbed]))
    await server.until("/v1/sessions", lambda sessions: not sessions["data"])
    assert list((tmp_path / "sessions").iterdir()) == []


async def test_a_watcher_reconnects_before_the_owner_and_waits_for_it(killable, viewer_of) -> None:
    server = killable(**KEEP)
    async with dialled(server.url, viewer_of) as owner:
        start = await owner.start(**WISH)
        await play(owner, 0, 2)
        server.restart()
    look_on = {"type": "session.watch", "session_id": start["session_id"]}
    async with dialled(server.url, viewer_of) as guest, dialled(server.url, viewer_of) as owner_again:
        await guest.send(look_on)
        assert (await guest.until("video.start"))["session_id"] == start["session_id"]
        await owner_again.send(coming_back(start, len(owner.fragments)))
        await play(owner_again, len(owner.fragments), 6)
        while (await guest.until("video.chunk_metadata"))["transport_chunk_index"] < 5:
            pass


async def test_a_change_that_waits_when_the_front_is_killed_is_shown_by_the_next_one(killable, viewer_of) -> None:
    server = killable(**KEEP)
    async with dialled(server.url, viewer_of) as viewer:
        start = await viewer.start(
            **{**WISH, "num_frames": None}
        )  # however late this test steers, there is more to come
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        while len(viewer.fragments) < 2:  # no more is made before the playhead moves
            await viewer.send({"type": "session.ping"})
            await viewer.until("session.pong")
        interaction = {"event_id": "evt_1", "event": {"prompt": "after"}}
        await viewer.send({"type": "session.interaction", "interaction": interaction})
        await viewer.until("session.interaction.queued")
        server.restart()
    have = len(viewer.fragments)
    async with dialled(server.url, viewer_of) as second, asyncio.timeout(PATIENCE):
        await second.send(coming_back(start, have))
        while not (applied := [m for m in second.messages if m["type"] == "session.interaction.applied"]):
            assert not await play(second, have, have + len(second.fragments) + 1)
        (applied,) = applied
        await play(second, have, applied["chunk_index"] + 1)
    shows = next(m for m in second.messages if m.get("transport_chunk_index") == applied["chunk_index"])
    assert applied["event_id"] == "evt_1" and shows["stats"]["prompt"] == "after"


async def test_chunks_that_the_viewer_has_but_the_disk_has_not_are_regenerated_and_not_sent(
    killable, viewer_of, tmp_path
) -> None:
    """After a power cut the last chunk may not be on disk."""
    server = killable(**KEEP)
    async with dialled(server.url, viewer_of) as first:
        start = await first.start(**{**WISH, "num_frames": 96})
        await play(first, 0, 4)
        server.kill()
    (path,) = (tmp_path / "sessions").glob("*.session")
    ends = [end for _, end in parts_of(path.read_bytes())]
    path.write_bytes(path.read_bytes()[: ends[3]])  # the record and three chunks
    server.start()
    async with dialled(server.url, viewer_of) as second:
        await second.send(coming_back(start, len(first.fragments)))
        assert await play(second, len(first.fragments))
    assert chunk_indices([first, second]) == list(range(8))
    async with dialled(server.url, viewer_of) as undisturbed:
        await undisturbed.start(**{**WISH, "num_frames": 96})
        assert await play(undisturbed, 0)
    assert same(film([first, second]), film([undisturbed]))


async def test_a_disk_that_is_full_disturbs_no_stream_and_is_told_once(killable, viewer_of, tmp_path) -> None:
    """A real kernel limit on the running front."""
    server = killable(**KEEP)
    async with dialled(server.url, viewer_of) as viewer, dialled(server.url, viewer_of) as other:
        for each in (viewer, other):
            await each.start(**{**WISH, "prompt": "noise", "num_frames": 120})
            await play(each, 0, 1)
        assert len(list((tmp_path / "sessions").iterdir())) == 2
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (50_000, hard))  # a log is shorter, a chunk longer
        await play(viewer, 0, 3)
        await play(other, 0, 3)
        assert list((tmp_path / "sessions").iterdir()) == [], "what cannot be told to its end is not told"
        assert await play(viewer, 0) and await play(other, 0)
    assert chunk_indices([viewer]) == chunk_indices([other]) == list(range(10))
    told = re.findall(r"sessions cannot be stored.*", server.log.read_text())
    assert len(told) == 1 and "File too large" in told[0]
    scraped = (await server.ask("GET", "/metrics")).text
    counted = re.search(r"^pafu_session_journal_failures_total\{.*\} (\d+)", scraped, re.MULTILINE)
    assert int(counted[1]) >= 2, "one for each session"


async def test_a_folder_that_comes_back_is_used_again(serve, viewer_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "TRY_AGAIN", 0.0)
    (tmp_path / "sessions").write_text("no folder")
    server = await serve(**KEEP)
    async with server.connect() as socket, asyncio.timeout(PATIENCE):
        viewer = viewer_of(socket)
        start = await viewer.start(**{**WISH, "num_frames": None})
        await play(viewer, 0, 2)
        (tmp_path / "sessions").unlink()
        (tmp_path / "sessions").mkdir()
        path = tmp_path / "sessions" / f"{start['session_id']}.session"
        while not path.exists():
            await play(viewer, 0, len(viewer.fragments) + 1)
    assert chunk_indices([viewer]) == list(range(len(viewer.fragments))), "the stream went on meanwhile"
    assert viewer.fragments[-1] in path.read_bytes()


async def test_a_disk_that_hangs_disturbs_no_stream(serve, viewer_of, monkeypatch, request) -> None:
    go_on, append = threading.Event(), JournalFile.append
    monkeypatch.setattr(JournalFile, "append", lambda *given: (go_on.wait(), append(*given)))
    monkeypatch.setattr(journal, "WRITTEN_WITHIN", 0.01)
    monkeypatch.setattr(journal, "MOST_OWED", 5)
    server = await serve(**KEEP)
    request.addfinalizer(go_on.set)
    async with dialled(server.url, viewer_of) as viewer, asyncio.timeout(PATIENCE):
        await viewer.start(**WISH)
        assert await play(viewer, 0)
    assert chunk_indices([viewer]) == list(range(20))
    assert server.engine.observer.metrics.read("pafu_session_journal_failures_total") == 1
    go_on.set()
    await server.empties()


async def test_a_journal_stays_short_and_goes_with_its_session(serve, viewer_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "SHORT", 20_000)
    server = await serve(**KEEP)
    async with server.connect() as socket:
        viewer, sizes = viewer_of(socket), []
        start = await viewer.start(prompt="noise", seed=1)
        path = tmp_path / "sessions" / f"{start['session_id']}.session"
        for chunks in range(1, 21):
            await play(viewer, 0, chunks)
            sizes.append(path.stat().st_size)
        written = sum(len(fragment) for fragment in viewer.fragments)
        assert max(sizes) < written / 2, "it holds what was played long ago"
        await viewer.send({"type": "session.stop"})
        await viewer.until("session.done")
    await server.empties()
    assert not path.exists()


async def test_what_a_viewer_sees_was_written_down_before(serve, viewer_of, monkeypatch) -> None:
    """Otherwise a kill in between loses a chunk that the viewer has, and the next server makes another."""
    append, absorb, happened = JournalFile.append, SessionState.absorb, []

    def keeping(file: JournalFile, entry: object) -> None:
        append(file, entry)
        happened.append(("written", getattr(entry, "index", None)))

    def showing(state: SessionState, event: object) -> None:
        happened.append(("shown", getattr(event, "index", None)))
        absorb(state, event)

    monkeypatch.setattr(journal, "WRITTEN_WITHIN", PATIENCE)
    monkeypatch.setattr(JournalFile, "append", keeping)
    monkeypatch.setattr(SessionState, "absorb", showing)
    server = await serve(**KEEP)
    await server.watch(num_frames=48)
    assert happened == [(what, index) for index in range(len(happened) // 2) for what in ("written", "shown")]
    assert len(happened) >= 8


async def test_a_change_is_taken_only_once_it_is_written_however_much_the_disk_owes(tmp_path, monkeypatch) -> None:
    """A chunk that is lost is made again; a change that was acknowledged and lost is not."""
    monkeypatch.setattr(journal, "WRITTEN_WITHIN", PATIENCE)
    path, go_on = tmp_path / "x", threading.Event()
    with ThreadPoolExecutor(1) as writer:
        kept = Journal(JournalFile(path), Mock(spec=JournalHost), writer, lambda: change(0))
        await kept.begin()
        writer.submit(go_on.wait)
        for _ in range(journal.PATIENT + 1):
            kept.touch()
        adding = asyncio.create_task(kept.add(change(1)))
        await asyncio.sleep(0)
        waits = not adding.done()
        go_on.set()
        await adding
        assert waits
        assert msgspec.msgpack.decode(list(parts_of(path.read_bytes()))[-1][0], type=Interact) == change(1)
        await kept.end(keep=False)


async def test_what_a_viewer_sees_is_forced_to_disk(serve, viewer_of, tmp_path, monkeypatch) -> None:
    """Passing it to the kernel survives a killed server, but not a power cut."""
    safe, sync = [0], os.fdatasync

    def note(handle: int) -> None:
        size = os.fstat(handle).st_size
        sync(handle)
        safe.append(size)

    monkeypatch.setattr(os, "fdatasync", note)
    server = await serve(**KEEP)
    async with server.connect() as socket, asyncio.timeout(PATIENCE):
        viewer = viewer_of(socket)
        start = await viewer.start(**WISH)
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        while len(viewer.fragments) < 2:  # no more is made before the playhead moves
            await viewer.send({"type": "session.ping"})
            await viewer.until("session.pong")
        path = tmp_path / "sessions" / f"{start['session_id']}.session"
        while safe[-1] < path.stat().st_size:
            await asyncio.sleep(0.01)
        assert viewer.fragments[-1] in path.read_bytes()[: safe[-1]]


async def test_without_a_disk_to_keep_sessions_nothing_is_written(serve, viewer_of, tmp_path) -> None:
    server = await serve()
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(**WISH)
        await play(viewer, 0, 2)
        assert not (tmp_path / "sessions").exists()


async def test_of_two_servers_on_one_folder_one_has_the_session(serve, viewer_of) -> None:
    one, two = await serve(**KEEP), await serve(**KEEP)
    async with dialled(one.url, viewer_of) as first:
        start = await first.start(**{**WISH, "num_frames": 72})
        await play(first, 0, 2)
    back = coming_back(start, len(first.fragments))
    async with dialled(two.url, viewer_of) as other:
        await other.send(back)
        refused = await other.until("error")
        assert (refused["code"], refused["retryable"]) == ("session_elsewhere", True)
        assert await other.closed() == 1013
    assert (await two.front.engine.observer.gather(), len(two.front.sessions))[1] == 0
    await one.stop()
    async with dialled(two.url, viewer_of) as second:
        await second.send(back)
        assert await play(second, len(first.fragments))
    assert chunk_indices([first, second]) == list(range(6))


def test_many_who_claim_one_file_are_one_who_gets_it(tmp_path) -> None:
    path = tmp_path / "x"
    for _ in range(20):
        left = JournalFile(path)
        left.begin(change(0))
        left.close()
        got: list[JournalFile] = []
        start = threading.Barrier(8)

        def claim(start=start, got=got) -> None:
            file = JournalFile(path)
            start.wait()
            try:
                file.claim()
            except SessionInUse:
                return
            file.begin(change(1))  # another file of that name: it must not be claimed in the gap
            got.append(file)

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        got[0].drop()
        assert not path.exists()


def test_a_file_that_its_holder_begins_anew_meanwhile_is_not_claimed(tmp_path, monkeypatch) -> None:
    holder, flock = JournalFile(tmp_path / "x"), fcntl.flock
    holder.begin(change(0))

    def late(handle: int, how: int) -> None:
        """The claimant has opened the old file just before the owner."""
        monkeypatch.setattr(fcntl, "flock", flock)
        holder.begin(change(1))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(SessionInUse):
        JournalFile(tmp_path / "x").claim()
    holder.drop()


def change(number: int) -> Interact:
    return Interact(session="sess_0", event_id=f"evt_{number}", prompt="x" * number, camera=None, chunks=1)


def test_a_torn_last_part_is_dropped_and_the_whole_parts_before_it_are_read_and_extended(tmp_path) -> None:
    path = tmp_path / "x"
    file = JournalFile(path)
    file.begin(change(0))
    for number in range(1, 4):
        file.append(change(number))
    file.close()
    whole = path.read_bytes()
    ends = [0, *(end for _, end in parts_of(whole))]
    assert ends[-1] == len(whole)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        torn = JournalFile(path)
        parts = [msgspec.msgpack.decode(part, type=Interact) for part in torn.claim()]
        assert parts == [change(number) for number in range(sum(end <= size for end in ends[1:]))]
        torn.append(change(9))
        torn.close()
        *_, last = parts_of(path.read_bytes())
        assert msgspec.msgpack.decode(last[0], type=Interact) == change(9) and last[1] == path.stat().st_size


def test_a_damaged_part_and_what_is_behind_it_are_not_believed() -> None:
    data = bytearray(framed(b"one") + framed(b"two") + framed(b"three"))
    data[len(framed(b"one")) + FRAME.size] ^= 1
    assert [body for body, _ in parts_of(bytes(data))] == [b"one"]


def test_what_another_server_holds_is_not_swept(tmp_path) -> None:
    archive = Archive(tmp_path, keep=0.001, observer=Observer(TEST_TINY))
    held, left = (JournalFile(tmp_path / f"sess_{number:016x}.session") for number in range(2))
    for file in (held, left):
        file.begin(change(0))
    left.close()
    threading.Event().wait(0.01)
    archive.prepare(in_use={})
    assert [path.name for path in tmp_path.iterdir()] == ["sess_0000000000000000.session"]
    held.close()


async def test_a_chunk_that_came_whole_over_a_connection_that_broke_holds_nothing_up(server) -> None:
    """The worker waits because the chunk is not acknowledged; the returning viewer says that it has the chunk."""
    cache = CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)
    order = Open(session="sess_0123456789abcdef", prompt="x", seed=1, lead_seconds=1.0, cache=cache, pictures=None)
    session, _ = server.front.sessions.create(order, ANONYMOUS)
    place = await session.own("m4s")
    async with asyncio.timeout(PATIENCE):
        await session.next(place)
        fragment = await session.next(place)
        again = await session.own("m4s", fragment.index)
        await session.next(again)
        assert (await session.next(again)).index == fragment.index + 1
    await session.stop()
