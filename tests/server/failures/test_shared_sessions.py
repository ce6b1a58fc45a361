"""Promise: with a shared session store, a viewer with its token can continue on any server, whether its own is dead or
alive; without the token nobody can."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import msgspec
import pytest
from sqlalchemy import create_engine, text

from server.jobs.claims import Claims
from server.jobs.connections import Connections, database_url
from server.jobs.files import open_files
from server.live.shared import ClaimLost, SharedJournal, SharedJournals
from tests.server.failures.test_journal import KEEP, WISH, chunk_indices, coming_back, dialled, film, play, same


class Noted(msgspec.Struct):
    """A record to write."""

    what: str


def noted(bodies: list[bytes]) -> list[str]:
    return [msgspec.msgpack.decode(body, type=Noted).what for body in bodies]


@pytest.fixture(params=["a folder", "fsspec"])
def places(request, tmp_path):
    """Objects and claims, as two servers see them."""
    folder = str(tmp_path / "shared")
    files = open_files(folder if request.param == "a folder" else f"local://{folder}", tmp_path)
    claims = Claims(lambda: Connections(database_url(None, tmp_path)))
    yield files, claims
    claims.close()


# ---- what is written


def test_the_newest_record_and_its_entries_are_read_and_older_ones_are_gone(places) -> None:
    one = SharedJournal("sess_1", *places)
    for number in range(2):
        one.begin(Noted(f"record {number}"))
        for entry in "ab":
            one.append(Noted(f"{entry}{number}"))
    assert len(places[0].names("sess_1")) == 3
    two = SharedJournal("sess_1", *places)
    assert noted([two.peek()]) == ["record 1"]
    assert noted(two.claim()) == ["record 1", "a1", "b1"]
    assert not two.good, "it needs a record of its own first"


def test_writes_of_a_server_that_lost_the_session_are_never_read(places) -> None:
    one, two, three = (SharedJournal("sess_1", *places) for _ in range(3))
    one.begin(Noted("one"))
    two.claim()
    assert not one.ours and two.ours
    one.append(Noted("late"))
    two.begin(Noted("two"))
    one.append(Noted("later"))
    with pytest.raises(ClaimLost):
        one.begin(Noted("one again"))
    assert not one.good
    one.drop()
    assert noted(three.claim()) == ["two"]
    three.drop()
    assert places[0].names("sess_1") == [] and three.used() is None


def test_nothing_is_read_after_a_missing_or_damaged_part(places) -> None:
    one = SharedJournal("sess_1", *places)
    one.begin(Noted("record"))
    for entry in "abc":
        one.append(Noted(entry))
    names = sorted(places[0].names("sess_1"))
    places[0].write(f"sess_1/{names[3]}", b"damaged")
    assert noted(SharedJournal("sess_1", *places).claim()) == ["record", "a", "b"]
    places[0].remove(f"sess_1/{names[1]}")
    assert noted(SharedJournal("sess_1", *places).claim()) == ["record"]


def test_abandoned_sessions_are_swept_and_those_in_use_stay(places) -> None:
    for name in ("sess_old", "sess_live"):
        SharedJournal(name, *places).begin(Noted(name))
    SharedJournals(*places).sweep(-1.0, {"sess_live"})
    assert places[0].names("sess_old") == [] and len(places[0].names("sess_live")) == 1


# ---- servers


@pytest.fixture
def fronts(killable, tmp_path):
    """Start servers that share sessions, each with its own data folder."""

    def start(number: int, **settings):
        shared = {"sessions": str(tmp_path / "shared"), "database": f"sqlite:///{tmp_path / 'jobs.sqlite'}"}
        return killable(**{**KEEP, **shared, "data_dir": tmp_path / f"front-{number}", **settings})

    return start


def rows(path: Path) -> int:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        found = connection.execute(text("SELECT count(*) FROM pafu_sessions")).scalar_one()
    engine.dispose()
    return found


async def test_a_viewer_goes_on_with_another_server_dead_or_alive_and_back(fronts, viewer_of, tmp_path) -> None:
    one, two = fronts(1), fronts(2)
    async with dialled(one.url, viewer_of) as undisturbed:
        await undisturbed.start(**WISH)
        assert await play(undisturbed, 0)
    viewers, start, have = [], None, 0
    for server, until in ((one, 4), (two, 8), (one, 12), (two, None)):  # the third move is from a server that lives
        async with dialled(server.url, viewer_of) as viewer:
            viewers.append(viewer)
            if start is None:
                start = await viewer.start(**WISH)
            else:
                await viewer.send(coming_back(start, have))
                assert (await viewer.until("video.start"))["next_chunk_index"] == have
            if until is None:
                assert await play(viewer, have)
            else:
                await play(viewer, have, until)
            if until == 4:
                one.restart()
            have += len(viewer.fragments)
    assert chunk_indices(viewers) == list(range(20))
    assert same(film(viewers), film([undisturbed]))
    await two.until("/v1/sessions", lambda sessions: not sessions["data"])
    left = [name for _, _, names in os.walk(tmp_path / "shared") for name in names]
    assert left == [] and rows(tmp_path / "jobs.sqlite") == 0


async def test_a_session_is_not_taken_without_its_token(fronts, viewer_of) -> None:
    one, two = fronts(1), fronts(2)
    async with dialled(one.url, viewer_of) as viewer:
        start = await viewer.start(**WISH)
        await play(viewer, 0, 2)
        for message, code in (
            ({**coming_back(start, 2), "token": "stolen"}, "wrong_token"),
            ({"type": "session.watch", "session_id": start["session_id"]}, "session_elsewhere"),
        ):
            async with dialled(two.url, viewer_of) as thief:
                await thief.send(message)
                assert (await thief.until("error"))["code"] == code
        path = f"/v1/sessions/{start['session_id']}"
        for method in ("GET", "DELETE"):
            assert (await two.ask(method, path)).json()["error"]["code"] == "session_elsewhere"
        assert await play(viewer, 0)
    assert chunk_indices([viewer]) == list(range(20))


async def test_while_the_store_does_not_answer_no_session_is_reported_as_gone(serve, viewer_of, tmp_path) -> None:
    shared = {"sessions": str(tmp_path / "shared"), "database": f"sqlite:///{tmp_path / 'gone' / 'jobs.sqlite'}"}
    server = await serve(**KEEP, **shared)
    (tmp_path / "gone").write_text("no folder")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        reply = await http.get("/v1/sessions/sess_0123456789abcdef")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_unavailable")
    await server.watch(num_frames=24)  # and live video goes on
