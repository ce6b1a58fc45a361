"""Promise: a session belongs to its key, is invisible to others, and counts until it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import websockets

from server.access import keys
from server.access.limits import CONNECTIONS_PER_SESSION
from server.http import app
from server.live import hls_output

WISH = {"seed": 4, "prompt": "the camera pans left", "num_frames": 72}
KEEP = {"keep_on_device": 30.0, "keep_on_disk": 60.0}
NOBODY = "sess_0123456789abcdef"
PATIENCE = 120.0


class Caller:
    """A caller with a key: its HTTP requests and sockets."""

    def __init__(self, key: str, viewer_of: Any) -> None:
        self.key, self.headers = key, {"authorization": f"Bearer {key}"}
        self._viewer_of = viewer_of

    def connect(self, server: Any) -> Any:
        return server.connect(additional_headers=self.headers)

    async def ask(self, server: Any, path: str, method: str = "GET") -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120, headers=self.headers) as client:
            return await client.request(method, path)

    async def ids(self, server: Any) -> list[str]:
        return [session["id"] for session in (await self.ask(server, "/v1/sessions")).json()["data"]]

    async def begun(self, server: Any) -> Any:
        """A viewer whose connection broke after the first chunk."""
        async with self.connect(server) as socket:
            viewer = self._viewer_of(socket)
            assert (await viewer.start(**WISH))["type"] == "video.start"
            await viewer.send({"type": "session.playback", "position_seconds": 0})
            await viewer.until("video.chunk_metadata")
            socket.transport.abort()
        return viewer

    async def refused(self, server: Any, message: dict[str, Any]) -> dict[str, Any]:
        """The error that answers a first message."""
        async with self.connect(server) as socket:
            viewer = self._viewer_of(socket)
            await viewer.send(message)
            error = await viewer.next()
            assert error["type"] == "error", error
            await viewer.closed()
            return error

    async def resumed(self, server: Any, message: dict[str, Any]) -> Any:
        """The rest of a film; the viewer who received it."""
        async with self.connect(server) as socket:
            viewer = self._viewer_of(socket)
            await viewer.send(message)
            await viewer.until("session.done")
            return viewer


@pytest.fixture
def people(tmp_path, viewer_of) -> tuple[Any, Caller, Caller]:
    """A keys file, and alice and bob with one place each."""
    path = tmp_path / "keys.toml"
    alice, bob = (Caller(keys.add(path, name, {"max_sessions": 1}), viewer_of) for name in ("alice", "bob"))
    return path, alice, bob


def resume_message(viewer: Any) -> dict[str, Any]:
    start = next(message for message in viewer.messages if message["type"] == "video.start")
    named = {"session_id": start["session_id"], "token": start["resume_token"]}
    return {"type": "session.resume", **named, "last_chunk_index": len(viewer.fragments) - 1}


def anonymised(error: Any, session_id: str) -> str:
    return str(error).replace(session_id, NOBODY)


async def suspended(server: Any, status: str = "suspended") -> None:
    """Wait until the server's only session has lost its viewer."""
    async with asyncio.timeout(PATIENCE):
        while [session.status.value for session in server.front.sessions] != [status]:
            await asyncio.sleep(0.01)


async def test_to_another_key_a_session_does_not_exist(serve, people) -> None:
    path, alice, bob = people
    server = await serve(**KEEP, keys_file=path)
    viewer = await alice.begun(server)
    await suspended(server)
    resume = resume_message(viewer)
    name = resume["session_id"]
    assert (await alice.ids(server), await bob.ids(server)) == ([name], [])
    for method in ("GET", "DELETE"):
        hers = await bob.ask(server, f"/v1/sessions/{name}", method)
        nobodys = await bob.ask(server, f"/v1/sessions/{NOBODY}", method)
        assert (hers.status_code, nobodys.status_code) == (404, 404)
        assert anonymised(hers.text, name) == nobodys.text
    for message in ({"type": "session.watch", "session_id": name}, resume, {**resume, "token": "guessed"}):
        hers, nobodys = await bob.refused(server, message), await bob.refused(server, {**message, "session_id": NOBODY})
        assert hers["code"] == nobodys["code"] == "unknown_session"
        assert anonymised(hers["message"], name) == nobodys["message"]
    assert (await alice.ask(server, f"/v1/sessions/{name}")).json()["status"] == "suspended"
    assert (await alice.resumed(server, resume)).messages[-1]["reason"] == "complete"


async def test_its_own_key_watches_and_stops_a_session(serve, people, viewer_of) -> None:
    path, alice, _ = people
    server = await serve(keys_file=path)
    async with alice.connect(server) as one, alice.connect(server) as two:
        owner, guest = viewer_of(one), viewer_of(two)
        name = (await owner.start(prompt="a bar"))["session_id"]
        await guest.send({"type": "session.watch", "session_id": name})
        await guest.until("video.chunk_metadata")
        assert (await alice.ask(server, f"/v1/sessions/{name}", "DELETE")).status_code == 200
        assert (await owner.until("session.done"))["reason"] == "stopped"


async def test_a_session_stays_its_keys_over_a_restart_of_the_server(serve, people, tmp_path) -> None:
    path, alice, bob = people
    first = await serve(**KEEP, keys_file=path, data_dir=tmp_path / "data")
    viewer = await alice.begun(first)
    await suspended(first)
    await first.stop()
    second = await serve(**KEEP, keys_file=path, data_dir=tmp_path / "data")
    assert (await bob.refused(second, resume_message(viewer)))["code"] == "unknown_session"
    assert len(second.front.sessions) == 0, "what is another's is not even taken from the disk"
    assert (await alice.refused(second, {**resume_message(viewer), "last_chunk_index": 99}))["code"] == "chunk_gone"
    assert dict(second.front.access.limits._sessions) == {"alice": 1}
    assert (await alice.resumed(second, resume_message(viewer))).messages[-1]["reason"] == "complete"
    await second.empties()
    assert not second.front.access.limits._sessions


@pytest.mark.parametrize(("keep", "status"), [(30.0, "suspended"), (0.0, "parked")])
async def test_a_session_without_its_viewer_counts_until_it_ends(serve, people, keep, status) -> None:
    path, alice, bob = people
    server = await serve(keys_file=path, keep_on_device=keep, keep_on_disk=60.0)
    await alice.begun(server)
    await suspended(server, status)
    refused = await alice.refused(server, {"type": "session.start", "prompt": "a second"})
    assert (refused["code"], refused["retry_after_seconds"]) == ("session_limit", 5.0)
    (name,) = await alice.ids(server)
    await bob.begun(server)
    assert (await alice.ask(server, f"/v1/sessions/{name}", "DELETE")).status_code == 200
    async with asyncio.timeout(PATIENCE):
        while await alice.ids(server):
            await asyncio.sleep(0.01)
    await alice.begun(server)


async def test_taking_its_session_up_again_costs_a_key_no_second_place(serve, people) -> None:
    path, alice, _ = people
    server = await serve(**KEEP, keys_file=path)
    viewer = await alice.begun(server)
    await suspended(server)
    assert (await alice.resumed(server, resume_message(viewer))).messages[-1]["reason"] == "complete"
    await server.empties()
    await alice.begun(server)
    await suspended(server)


async def test_nobody_who_comes_back_frees_the_place(serve, people) -> None:
    path, alice, _ = people
    server = await serve(keys_file=path, keep_on_device=0.05, keep_on_disk=0.05)
    first = await alice.begun(server)
    await server.empties()
    assert (await alice.refused(server, resume_message(first)))["code"] == "unknown_session"
    second = await alice.begun(server)
    assert resume_message(second)["session_id"] != resume_message(first)["session_id"]


async def test_a_key_cannot_open_connections_without_end(serve, people) -> None:
    path, alice, bob = people
    server = await serve(keys_file=path)
    sockets = [await alice.connect(server) for _ in range(CONNECTIONS_PER_SESSION)]
    with pytest.raises(websockets.InvalidStatus) as refused:
        await alice.connect(server)
    assert refused.value.response.status_code == 429 and refused.value.response.headers["retry-after"]
    await bob.begun(server)
    for socket in sockets:
        await socket.close()


async def test_without_keys_all_is_one_caller(serve, viewer_of) -> None:
    server = await serve(**KEEP)
    one, other = Caller("x", viewer_of), Caller("y", viewer_of)
    viewer = await one.begun(server)
    await suspended(server)
    assert await other.ids(server) == [resume_message(viewer)["session_id"]]
    assert (await other.resumed(server, resume_message(viewer))).messages[-1]["reason"] == "complete"


async def test_a_removed_key_ends_its_sockets_its_tickets_and_the_sessions_of_an_owner_without_keys(
    serve, people, viewer_of, monkeypatch
) -> None:
    monkeypatch.setattr(app, "KEY_SECONDS", 0.01)
    monkeypatch.setattr(hls_output, "IDLE_SECONDS", 3600.0)
    path, alice, bob = people
    server = await serve(**KEEP, keys_file=path)
    ticket = server.front.access.tickets.mint(server.front.access.keys.caller(alice.key), 60).value
    async with alice.connect(server) as hers, bob.connect(server) as his:
        watching, other = viewer_of(hers), viewer_of(his)
        playlist = (await watching.start())["hls"]
        await other.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as player:
            assert (await player.get(playlist)).status_code == 200  # a watcher more, without a socket
        keys.remove(path, "alice")
        assert await watching.closed() == 1008
        assert watching.messages[-1]["code"] == "invalid_key"
        async with asyncio.timeout(PATIENCE):
            while len(server.front.sessions) > 1:  # alice's waits for nobody
                await asyncio.sleep(0.01)
        await other.until("video.chunk_metadata")  # bob's goes on
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with server.connect(subprotocols=["pafu", f"pafu-ticket.{ticket}"]):
            pass
    assert refused.value.response.status_code == 401


async def test_a_key_that_is_removed_before_the_session_starts_starts_none(
    serve, people, viewer_of, monkeypatch
) -> None:
    monkeypatch.setattr(app, "KEY_SECONDS", 0.01)
    path, alice, _ = people
    server = await serve(keys_file=path)
    async with alice.connect(server) as socket:
        viewer = viewer_of(socket)
        keys.remove(path, "alice")
        async with asyncio.timeout(PATIENCE):
            while not all(one._revoked for one in server.front.viewers):
                await asyncio.sleep(0.01)
        assert (await viewer.start())["code"] == "invalid_key"
    assert not len(server.front.sessions)


async def test_keys_of_one_owner_overlap_so_that_one_can_replace_another(serve, people, viewer_of, monkeypatch) -> None:
    monkeypatch.setattr(app, "KEY_SECONDS", 0.01)
    path, alice, _ = people
    server = await serve(**KEEP, keys_file=path)
    await server.engine.settled()
    again = Caller(keys.add(path, "alice-2", {}, owner="alice"), viewer_of)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, headers=alice.headers) as client:
        video = (await client.post("/v1/videos", json={"prompt": "a bar"})).json()["id"]
    viewer = await alice.begun(server)
    await suspended(server)
    keys.remove(path, "alice")
    await asyncio.sleep(0.1)  # many looks at the keys
    assert (await again.ask(server, f"/v1/videos/{video}")).status_code == 200
    assert (await alice.ask(server, f"/v1/videos/{video}")).status_code == 401
    assert (await again.resumed(server, resume_message(viewer))).messages[-1]["reason"] == "complete"


async def test_sessions_and_videos_from_before_the_server_had_keys_belong_to_anonymous(
    serve, tmp_path, viewer_of
) -> None:
    before = await serve(data_dir=tmp_path / "data")
    async with httpx.AsyncClient(base_url=before.url, trust_env=False) as client:
        video = (await client.post("/v1/videos", json={"prompt": "a bar"})).json()["id"]
    await before.stop()
    path = tmp_path / "keys.toml"
    heir, other = (
        Caller(keys.add(path, name, {}, owner), viewer_of) for name, owner in (("a", "anonymous"), ("b", None))
    )
    after = await serve(data_dir=tmp_path / "data", keys_file=path)
    assert (await heir.ask(after, f"/v1/videos/{video}")).status_code == 200
    assert (await other.ask(after, f"/v1/videos/{video}")).status_code == 404
