"""Promise: a viewer gets its video chunk by chunk, steered by its changes, whatever happens to others or to the
worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket

import numpy as np
import pytest
import websockets


async def test_a_session_gets_exactly_its_pictures_in_order(server) -> None:
    viewer = await server.watch(num_frames=30, seed=3)
    metadata = [m for m in viewer.messages if m["type"] == "video.chunk_metadata"]
    assert [m["transport_chunk_index"] for m in metadata] == [0, 1, 2]
    assert [m["num_frames"] for m in metadata] == [12, 12, 6]
    assert viewer.pictures().shape == (30, 128, 128, 3)
    done = viewer.messages[-1]
    assert (done["chunks"], done["stopped"], done["reason"]) == (3, False, "complete")


async def test_video_start_repeats_what_was_accepted(server) -> None:
    viewer = await server.watch(
        num_frames=1, seed=9, prompt="  a tower ", model="test-tiny", width=128, height=128, fps=16
    )
    start = viewer.messages[0]
    assert start["type"] == "video.start" and start["format"] == "m4s" and start["session_id"] and start["request_id"]
    assert start["mime"].startswith('video/mp4; codecs="avc1.')
    config = start["config"]
    assert (config["prompt"], config["seed"], config["num_frames"], config["fps"]) == ("a tower", 9, 1, 16)


async def test_without_a_seed_one_is_chosen_told_and_repeats_the_video(server) -> None:
    first = await server.watch(num_frames=5)
    again = await server.watch(num_frames=5, seed=first.messages[0]["config"]["seed"])
    other = await server.watch(num_frames=5)
    assert first.fragments == again.fragments
    assert first.fragments != other.fragments


async def test_two_viewers_at_once_get_what_each_would_get_alone(server) -> None:
    wishes = [
        {"num_frames": 40, "seed": 1, "prompt": "one"},
        {"num_frames": 40, "seed": 2, "prompt": "the camera pans left"},
    ]
    alone = [await server.watch(**wish) for wish in wishes]
    together = await asyncio.gather(*(server.watch(**wish) for wish in wishes))
    for one, both in zip(alone, together, strict=True):
        assert np.array_equal(one.pictures(), both.pictures())
    assert not np.array_equal(alone[0].pictures(), alone[1].pictures())


async def test_words_that_the_model_does_not_know_are_named_at_the_start_and_at_a_change(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        started = await viewer.start(seed=1, prompt="a red zeppelin over a meadow")
        assert started["unknown_words"] == ["zeppelin"]
        assert started["warnings"] == ["the model does not know 'zeppelin'"]
        told = []
        for prompt in ("a crimson hut at dusk", "a crimson hut without a roof", "a crimson hut at dusk"):
            await viewer.send({"type": "session.interaction", "interaction": {"event": {"prompt": prompt}}})
            queued = await viewer.until("session.interaction.queued")
            assert queued["unknown_words"] == []
            told.append(queued["warnings"])
            await viewer.until("session.interaction.applied")
        assert told[0] == [] and len(told[1]) == 2 and told[1][0].startswith("the prompt names nothing new")
        assert told[1][1].startswith("'without a roof' is ignored")


async def test_a_change_is_queued_then_applied_at_a_chunk_and_shows_there(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(seed=1, prompt="before")
        await viewer.until("video.chunk_metadata")
        event = {"prompt": "after", "multi_modal_data": {"camera": {"speed": -4}}}
        interaction = {"event_id": "evt_1", "event": event, "transition_chunks": 2}
        await viewer.send({"type": "session.interaction", "interaction": interaction})
        assert (await viewer.until("session.interaction.queued"))["event_id"] == "evt_1"
        applied = await viewer.until("session.interaction.applied")
        chunks = [await viewer.until("video.chunk_metadata") for _ in range(3)]
        assert chunks[0]["transport_chunk_index"] == applied["chunk_index"]
        assert [c["started_event_ids"] for c in chunks] == [["evt_1"], [], []]
        assert [c["active_event_ids"] for c in chunks] == [["evt_1"], ["evt_1"], []]
        assert [c["completed_event_ids"] for c in chunks] == [[], ["evt_1"], []]
        assert [c["stats"]["prompt"] for c in chunks] == ["after"] * 3
        assert chunks[0]["stats"]["camera"]["speed"] == -4


async def test_a_change_waits_for_its_chunk_and_a_start_may_bring_its_changes(server, viewer_of) -> None:
    """So that a scene can be repeated: the same changes at the same chunks."""
    known = [
        {"event_id": "late", "event": {"prompt": "at four"}, "at_chunk": 4},
        {"event": {"multi_modal_data": {"camera": {"speed": 8}}}, "at_chunk": 1},
    ]
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(seed=1, prompt="before", interactions=known)
        change = {"event_id": "then", "event": {"prompt": "at six"}, "at_chunk": 6}
        await viewer.send({"type": "session.interaction", "interaction": change})
        chunks = [await viewer.until("video.chunk_metadata") for _ in range(8)]
    assert [c["started_event_ids"] for c in chunks] == [[], ["evt_start_1"], [], [], ["late"], [], ["then"], []]
    assert [c["stats"]["prompt"] for c in chunks] == ["before"] * 4 + ["at four"] * 2 + ["at six"] * 2
    assert [c["stats"]["camera"]["speed"] for c in chunks] == [0] + [8] * 7


@pytest.mark.parametrize(
    ("interactions", "param"),
    [
        ([{"event": {"prompt": "x"}, "at_chunk": -1}], "interactions.0.at_chunk"),
        ([{"event": {"prompt": "x"}, "when": 1}], "interactions.0.when"),
        ([{"event": {"prompt": "x"}}] * 65, "interactions"),
    ],
)
async def test_changes_of_a_start_are_checked_before_it_begins(server, viewer_of, interactions, param) -> None:
    async with server.connect() as socket:
        error = await viewer_of(socket).start(prompt="a bar", interactions=interactions)
    assert (error["type"], error["param"]) == ("error", param)


@pytest.mark.parametrize(("pan", "sign"), [("left", -1), ("right", 1), ("hold", 0)])
async def test_a_pan_is_named_by_its_direction(server, viewer_of, pan, sign) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        event = {"multi_modal_data": {"camera": {"pan": pan, "cut_to": 1}}}
        await viewer.send({"type": "session.interaction", "interaction": {"event": event}})
        await viewer.until("session.interaction.applied")
        assert np.sign((await viewer.until("video.chunk_metadata"))["stats"]["camera"]["speed"]) == sign


async def test_camera_words_in_a_prompt_steer_the_camera(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="a house, the camera pans left")
        assert (await viewer.until("video.chunk_metadata"))["stats"]["camera"]["speed"] < 0
        await viewer.send(
            {"type": "session.interaction", "interaction": {"event": {"prompt": "the camera holds still"}}}
        )
        await viewer.until("session.interaction.applied")
        assert (await viewer.until("video.chunk_metadata"))["stats"]["camera"]["speed"] == 0


async def test_a_change_that_the_model_refuses_is_told_and_the_stream_goes_on(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="before")
        event = {"event_id": "evt_1", "event": {"prompt": "refuse this"}}
        await viewer.send({"type": "session.interaction", "interaction": event})
        error = await viewer.until("error")
        assert (error["code"], error["event_id"]) == ("interaction_failed", "evt_1")
        assert (await viewer.until("video.chunk_metadata"))["stats"]["prompt"] == "before"


async def test_stop_ends_the_session_in_order(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.until("video.chunk_metadata")
        await viewer.send({"type": "session.stop"})
        done = await viewer.until("session.done")
        assert (done["stopped"], done["reason"], done["chunks"]) == (True, "stopped", len(viewer.fragments))
        assert await viewer.closed() == 1000
    await server.empties()


async def test_a_session_that_fails_ends_alone(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        bystander = asyncio.create_task(server.watch(num_frames=50, seed=1))
        await viewer.start(prompt="explode")
        error = await viewer.until("error")
        assert (error["code"], error["retryable"]) == ("generation_failed", True)
        assert "the model exploded" in error["message"]
        assert await viewer.closed() == 1011
    assert (await bystander).pictures().shape[0] == 50
    assert server.engine.status().workers[0].restarts == 0


def same_film(one, two) -> bool:
    """Whether all pictures are equal up to the differences of a fresh encoder; one step of the bar is 9 or more."""
    pair = (one.pictures().astype(int), two.pictures().astype(int))
    return pair[0].shape == pair[1].shape and np.abs(pair[0] - pair[1]).mean(axis=(1, 2, 3)).max() < 1.5


async def test_a_killed_worker_is_replaced_and_its_sessions_go_on_without_a_missing_picture(server, viewer_of) -> None:
    wish = {"num_frames": 72, "seed": 4, "prompt": "the camera pans left"}
    undisturbed = await server.watch(**wish)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(**wish)
        for _ in range(2):
            await viewer.until("video.chunk_metadata")
        before = server.engine.status().workers[0].pid
        os.kill(before, signal.SIGKILL)
        interrupted = await viewer.until("session.interrupted")
        assert "SIGKILL" in interrupted["reason"]
        done = await viewer.until("session.done")
        assert (done["reason"], done["chunks"]) == ("complete", 6)
    assert [m["transport_chunk_index"] for m in viewer.messages if "transport_chunk_index" in m] == [0, 1, 2, 3, 4, 5]
    assert same_film(viewer, undisturbed)
    assert server.engine.status().workers[0].pid != before
    await server.empties()


async def test_a_change_that_a_dead_worker_did_not_show_is_shown_by_the_next(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="before")
        await viewer.until("video.chunk_metadata")
        os.kill(server.engine.status().workers[0].pid, signal.SIGSTOP)
        change = {"event_id": "evt_1", "event": {"prompt": "after"}}
        await viewer.send({"type": "session.interaction", "interaction": change})
        await viewer.until("session.interaction.queued")
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
        applied = await viewer.until("session.interaction.applied")
        chunk = await viewer.until("video.chunk_metadata")
        assert (applied["event_id"], applied["chunk_index"]) == ("evt_1", chunk["transport_chunk_index"])
        assert chunk["stats"]["prompt"] == "after"


async def test_a_session_under_which_workers_die_again_and_again_is_given_up(serve, viewer_of, monkeypatch) -> None:
    monkeypatch.setattr("server.engine.supervisor.FIRST_DELAY", 0.001)
    server = await serve()
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="die at once")
        error = await viewer.until("error")
        assert (error["code"], error["retryable"]) == ("worker_failed", True)
        assert await viewer.closed() == 1012
        assert len([m for m in viewer.messages if m["type"] == "session.interrupted"]) == 2
    await server.works()


async def test_a_session_that_begins_while_the_worker_restarts_waits_and_works(server) -> None:
    pid = await first_pid(server)
    os.kill(pid, signal.SIGKILL)
    await server.works()
    (worker,) = server.engine.status().workers
    assert worker.pid != pid and worker.restarts == 1


async def test_a_session_whose_worker_dies_before_it_began_is_given_the_next_one(server, viewer_of) -> None:
    pid = await first_pid(server)
    os.kill(pid, signal.SIGSTOP)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        starting = asyncio.create_task(viewer.start(num_frames=1))
        async with asyncio.timeout(120):
            while not server.engine.status().sessions:  # the order is on its way to a worker that does not answer
                await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert (await starting)["type"] == "video.start"
        await viewer.until("session.done")


async def test_a_worker_that_is_alive_but_stuck_is_replaced(serve, viewer_of) -> None:
    server = await serve(worker_timeout=3.0)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        os.kill(server.engine.status().workers[0].pid, signal.SIGSTOP)
        assert "no message for" in (await viewer.until("session.interrupted"))["reason"]
        await viewer.until("video.chunk_metadata")
    await server.works()


async def test_a_worker_that_can_never_start_is_not_started_again(serve, viewer_of, tmp_path) -> None:
    server = await serve(weights=tmp_path)
    await server.engine.settled()
    status = server.engine.status()
    assert (status.state.value, status.workers[0].restarts) == ("failed", 0)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        error = await viewer.start()
        assert error["code"] == "worker_failed" and "dit.safetensors is missing" in error["message"]
        assert await viewer.closed() == 1012


async def test_a_worker_that_dies_again_and_again_before_it_is_ready_is_given_up(serve, monkeypatch) -> None:
    monkeypatch.setattr("server.engine.supervisor.FIRST_DELAY", 0.001)
    server = await serve()
    pid = await first_pid(server)
    server.engine.pool.members[0].supervisor.command = ("/bin/sh", "-c", "echo 'no module named x' >&2; exit 1")
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(120):
        while server.engine.status().state.value != "failed":
            await asyncio.sleep(0.01)
    message = server.engine.status().message
    assert message.startswith("exit status 1: no module named x; that was failure 5 before it was ready")


async def first_pid(server) -> int:
    await server.engine.settled()
    return server.engine.status().workers[0].pid


async def test_a_paused_viewer_costs_nothing_and_goes_on_where_it_was(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(num_frames=60)
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        await viewer.until("video.chunk_metadata")
        await viewer.until("video.chunk_metadata")  # 1.5 s: the lead of 1.25 s is reached
        await server.watch(num_frames=60, seed=1)  # meanwhile another sees 3.75 s
        await viewer.send({"type": "session.ping"})
        await viewer.until("session.pong")
        made = len(viewer.fragments)
        assert 2 <= made <= 3, "one more may have been made before the server heard of the playhead"
        await viewer.send({"type": "session.playback", "position_seconds": 0.75 * made})
        await viewer.until("video.chunk_metadata")


@pytest.mark.parametrize("chunks", [0, 1])
async def test_a_viewer_that_plays_nothing_for_too_long_is_let_go(serve, viewer_of, chunks: int) -> None:
    """Also if it reports its playhead for the first time when some chunks have reached it, and were taken as played."""
    server = await serve(stall_timeout=0.2)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        for _ in range(chunks):
            await viewer.until("video.chunk_metadata")
        await viewer.send({"type": "session.playback", "position_seconds": 0})
        error = await viewer.until("error")
        assert error["code"] == "viewer_stalled"
        assert await viewer.closed() == 1008
    await server.works()


async def test_a_viewer_that_does_not_read_is_not_generated_for(serve, viewer_of) -> None:
    server = await serve(stall_timeout=1.0, max_lead_seconds=1000)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    raw.connect(("127.0.0.1", server.port))
    async with server.connect(sock=raw, max_queue=1) as connection:
        # it asks for all 125 chunks (200 kB each) at once and then does not read
        start = {"type": "session.start", "prompt": "noise", "streaming_buffer_seconds": 1000, "num_frames": 1500}
        await connection.send(json.dumps(start))
        await server.works()  # which also waits until the stalled session is gone
        viewer = viewer_of(connection)
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await viewer.next()
        assert 1 <= len(viewer.fragments) < 10


async def test_shutting_down_tells_the_viewers_and_ends_the_worker(serve, viewer_of) -> None:
    server = await serve()
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.until("video.chunk_metadata")
        pid = server.engine.status().workers[0].pid
        stopping = asyncio.create_task(server.stop())
        done = await viewer.until("session.done")
        assert (done["reason"], done["stopped"]) == ("server_shutdown", True)
        assert await viewer.closed() == 1012
        await stopping
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises(OSError):
        await server.watch(num_frames=1)


@pytest.mark.parametrize(("takes", "left"), [(0.0, 5.0), (2.5, 3.0), (7.0, 1.0)])
async def test_a_slow_step_of_the_shutdown_leaves_less_time_for_the_worker(serve, monkeypatch, takes, left) -> None:
    """shutdown_timeout is 1 s: the server ends 5 s after that, and the worker always gets a moment."""
    server = await serve(shutdown_timeout=1.0)
    await server.engine.settled()
    given, stop = [], server.engine.stop

    async def recorded(within: float) -> None:
        given.append(within)
        await stop(0.0)

    monkeypatch.setattr(server.engine, "stop", recorded)
    monkeypatch.setattr(server.front, "drain", lambda: asyncio.sleep(takes))
    await server.stop()
    assert 1.0 <= given[0] <= left


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example:80", "file://"])
async def test_a_page_from_elsewhere_is_refused_before_its_socket_is_accepted(server, origin) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with server.connect(origin=origin):
            pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{port}", "http://localhost:3000", None])
async def test_the_own_page_loopback_pages_and_programs_are_let_in(server, viewer_of, origin) -> None:
    async with server.connect(origin=origin and origin.format(port=server.port)) as socket:
        assert (await viewer_of(socket).start())["type"] == "video.start"


async def test_a_session_that_asks_sees_what_is_kept_and_others_do_not(server) -> None:
    watching = await server.watch(num_frames=24, memory=True)
    config = watching.messages[0]["config"]["memory"]
    assert config == {"pictures_per_latent": 4, "first_latent_pictures": 4, "tokens_per_latent": 16}
    chunks = [m["stats"]["memory"] for m in watching.messages if m["type"] == "video.chunk_metadata"]
    assert [(memory["rows"], memory["columns"], memory["latents"]) for memory in chunks] == [(2, 3, [2]), (2, 3, [5])]
    assert base64.b64decode(chunks[1]["kept"]) == bytes(range(250, 256)) and chunks[1]["salience"] == ""
    plain = await server.watch(num_frames=12)
    assert "memory" not in plain.messages[0]["config"]
    assert all("memory" not in m.get("stats", {}) for m in plain.messages)
