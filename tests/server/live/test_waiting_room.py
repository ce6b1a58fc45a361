"""Promise: waiting sessions are served in order, started ones first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.config import Settings
from server.errors import PafuError
from server.ipc.messages import CacheChoice, Open
from server.live.waiting_room import WaitingRoom

CACHE = CacheChoice(policy="window", budget_latents=6, sink_latents=0, recent_latents=3)


class Places:
    """An engine with this many places; a freed place is not announced before ``look``."""

    def __init__(self, free: int) -> None:
        self.free, self.served = free, list[str]()
        self._news = asyncio.Event()

    async def wait_ready(self, within: float) -> None:
        pass

    async def open(self, order: Open) -> str:
        if not self.free:
            raise PafuError("session_rejected", "no place is free")
        self.free -= 1
        self.served.append(order.session)
        return order.session

    async def room_changed(self, within: float) -> None:
        await self._news.wait()

    async def look(self) -> None:
        """Announce free places, and let all waiting sessions check."""
        self._news.set()
        self._news = asyncio.Event()
        await step()


async def step() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def no_room() -> bool:
    return False


@pytest.fixture
def places() -> Places:
    return Places(free=0)


@pytest.fixture
def told() -> list[tuple[str, int, float | None]]:
    """Who was told which position, and the estimated seconds."""
    return []


@pytest.fixture
async def come(places: Places, told: list[tuple[str, int, float | None]]):
    """A session arrives and asks for a place."""
    room = WaitingRoom(places, Settings(model="test-tiny", max_waiting=2, queue_timeout=600.0), no_room)  # type: ignore[arg-type]
    tasks: list[asyncio.Task[Any]] = []

    async def comes(name: str, started: bool = False) -> asyncio.Task[Any]:
        order = Open(session=name, prompt="", seed=0, lead_seconds=1.0, cache=CACHE, pictures=None)
        tell = lambda position, depth, seconds: told.append((name, position, seconds))  # noqa: E731
        tasks.append(asyncio.create_task(room.open(order, started, tell)))
        await step()
        return tasks[-1]

    yield comes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_first_come_first_served_but_sessions_that_have_begun_go_first(places: Places, come) -> None:
    for name, started in (("a", False), ("b", False), ("begun", True), ("begun later", True)):
        await come(name, started)
    for _ in range(4):
        places.free = 1
        await places.look()
    assert places.served == ["begun", "begun later", "a", "b"]


async def test_a_free_place_goes_to_waiting_viewers_before_newcomers(places: Places, come) -> None:
    await come("waits")
    places.free = 1
    await come("newcomer")
    assert places.served == []
    await places.look()
    assert places.served == ["waits"]


async def test_the_limit_on_waiting_viewers_does_not_count_started_sessions(places: Places, come) -> None:
    for name, started in (("a", False), ("begun", True), ("b", False)):
        assert not (await come(name, started)).done()
    with pytest.raises(PafuError) as refused:
        await (await come("c"))
    assert refused.value.kind.code == "session_rejected"
    assert not (await come("begun later", True)).done()


async def test_who_waits_is_told_in_how_many_seconds_a_place_is_expected(places, come, told, monkeypatch) -> None:
    """Without any wait before, a session is expected to stay as long again as it has stayed."""
    now = 1000.0
    monkeypatch.setattr("server.live.waiting_room.time.monotonic", lambda: now)
    places.free = 1
    await come("plays")
    now += 32
    await come("a")
    await come("b")
    assert told[-2:] == [("a", 1, 40.0), ("b", 2, 70.0)]
    now += 20
    places.free = 1
    await places.look()
    assert told[-1] == ("b", 1, 20.0), "then as long as others waited"
