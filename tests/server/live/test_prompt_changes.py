"""Promise: a new prompt is visible at most the lead plus one chunk later, however fast or slow the viewer plays."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from server.engine.line import Line
from server.ipc.messages import Interact
from server.live.changes import Changes
from server.live.journal import Journal

CHUNK_SECONDS = 0.75
PATIENCE = 120.0


@pytest.mark.parametrize("lead", [0.3, 1.25, 4.0])
async def test_a_change_shows_within_the_lead_and_one_chunk_of_what_the_viewer_saw_then(
    server, viewer_of, lead
) -> None:
    """In media time, so that slow machines pass too: the player jumps ahead at will."""
    choose = random.Random(5)
    asked: dict[str, float] = {}
    shown: dict[str, float] = {}
    seen = 0.0
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(streaming_buffer_seconds=lead)
        while len(shown) < 12:
            seen += choose.choice([0.0, 0.5, 1.0]) * (len(viewer.fragments) * CHUNK_SECONDS - seen)
            await viewer.send({"type": "session.playback", "position_seconds": seen})
            if len(viewer.fragments) > 8 and len(asked) - len(shown) < 3:  # the first report has long been heard
                name = f"evt_{len(asked)}"
                asked[name] = seen
                event = {"event_id": name, "event": {"prompt": f"words {len(asked)}"}}
                await viewer.send({"type": "session.interaction", "interaction": event})
            await viewer.send({"type": "session.ping"})
            while (message := await viewer.next())["type"] != "session.pong":
                if message["type"] == "session.interaction.applied":
                    shown[message["event_id"]] = message["chunk_index"] * CHUNK_SECONDS
    late = {name: at - asked[name] for name, at in shown.items()}
    assert max(late.values()) <= lead + CHUNK_SECONDS + 1e-6, late
    assert min(late.values()) >= 0, "words cannot show in a picture that was seen before"


async def test_a_change_over_several_chunks_is_completed_although_its_worker_dies(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(prompt="sleep")
        await viewer.until("video.chunk_metadata")
        change = {"event_id": "evt_1", "event": {"prompt": "sleep on"}, "transition_chunks": 4}
        await viewer.send({"type": "session.interaction", "interaction": change})
        first = (await viewer.until("session.interaction.applied"))["chunk_index"]
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
        chunks = []
        while len(chunks) < 8 and not (chunks and chunks[-1]["completed_event_ids"]):
            chunks.append(await viewer.until("video.chunk_metadata"))
    active = [m["transport_chunk_index"] for m in chunks if "evt_1" in m["active_event_ids"]]
    assert active == list(range(first, first + 4)) and chunks[-1]["transport_chunk_index"] == first + 3
    assert [m["started_event_ids"] for m in chunks[:2]] == [["evt_1"], []]


async def test_a_change_accepted_while_its_session_moves_is_sent_once(server, viewer_of, monkeypatch) -> None:
    """With a slow journal: the change is accepted, the worker dies, the next one gets the change with the session, and
    only then the journal has it."""
    written, sent = asyncio.Event(), []
    add, interact, handed_over = Journal.add, Line.interact, Changes.handed_over

    async def slow_add(self, entry) -> None:
        if isinstance(entry, Interact):
            await written.wait()
        await add(self, entry)

    async def counted(self, change) -> None:
        sent.append(change.event_id)
        await interact(self, change)

    def noted(self, changes) -> None:
        sent.extend(change.event_id for change in changes)
        handed_over(self, changes)

    monkeypatch.setattr(Journal, "add", slow_add)
    monkeypatch.setattr(Changes, "handed_over", noted)
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.until("video.chunk_metadata")
        change = {"event_id": "once", "event": {"prompt": "new words"}}
        await viewer.send({"type": "session.interaction", "interaction": change})
        (session,) = server.front.sessions
        async with asyncio.timeout(PATIENCE):
            while session.pending != ["once"]:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(Line, "interact", counted)
            os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)
            while not sent:
                await asyncio.sleep(0.01)
        written.set()
        await viewer.until("session.interaction.queued")
        await viewer.send({"type": "session.ping"})  # what it asked for before has been handled when this is answered
        await viewer.until("session.pong")
    assert sent == ["once"]
