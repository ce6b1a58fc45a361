"""The queue of sessions that wait for a worker: first come, first served, started sessions before new ones."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable

from server.config import Settings
from server.engine.interface import Engine, EngineSession
from server.errors import PafuError
from server.ipc.messages import Open

Tell = Callable[[int, int, float | None], None]  # position, queue depth, estimated seconds
RECENT = 8  # number of recent waits, or of admitted sessions, that the estimate uses
STEP_SECONDS = 10  # an estimate without waits grows in such steps
POLL_SECONDS = 0.5  # recheck interval in case no change of room is announced


class Waiter:
    """One session in the waiting room."""

    def __init__(self, tell: Tell, started: bool) -> None:
        self.tell = tell
        self.started = started
        self.refused = False  # no place was free, so it waits
        self.came = time.monotonic()
        self.first_position = 1  # position when it started to wait


class WaitingRoom:
    """Opens sessions on the engine; while no place is free, they queue here."""

    def __init__(self, engine: Engine, settings: Settings, make_room: Callable[[], Awaitable[bool]]) -> None:
        """``make_room`` frees a place by parking an idle session and returns whether it did."""
        self._engine = engine
        self._settings = settings
        self._make_room = make_room
        self._waiting: list[Waiter] = []
        self._seconds_a_place: deque[float] = deque(maxlen=RECENT)
        self._admitted: deque[float] = deque(maxlen=RECENT)  # when the newest sessions got their places
        self.closed = False

    @property
    def depth(self) -> int:
        """Number of waiting sessions."""
        return sum(waiter.refused for waiter in self._waiting)

    async def open(self, order: Open, started: bool, tell: Tell) -> EngineSession:
        """Open the session on a worker; reports its position through ``tell`` while it waits. Raises PafuError."""
        waiter = Waiter(tell, started)
        ahead = sum(other.started for other in self._waiting)
        self._waiting.insert(ahead if started else len(self._waiting), waiter)
        try:
            engine_session = await self._wait(waiter, order, started)
            if waiter.refused:
                self._seconds_a_place.append((time.monotonic() - waiter.came) / waiter.first_position)
            self._admitted.append(time.monotonic())
            return engine_session
        finally:
            self._waiting.remove(waiter)
            self._tell()

    async def _wait(self, waiter: Waiter, order: Open, started: bool) -> EngineSession:
        give_up = time.monotonic() + self._settings.queue_timeout
        while True:
            refusal: PafuError | None = None
            if self.closed:
                raise PafuError("shutting_down", "the server is shutting down; try another or try again later")
            if not any(other.refused for other in self._waiting[: self._waiting.index(waiter)]):
                engine_session, refusal = await self._try(order, started)
                if engine_session is not None:
                    return engine_session
                if await self._make_room():
                    continue
            if not waiter.refused:
                waiter.refused = True
                waiter.first_position = self.depth
            waiters = sum(other.refused and not other.started for other in self._waiting)
            if not started and waiters > self._settings.max_waiting:
                raise refusal or PafuError("session_rejected", "no place is free; try again later", retry_after=5.0)
            if time.monotonic() > give_up:
                raise PafuError("session_rejected", "no place became free in time; try again later", retry_after=5.0)
            self._tell()
            await self._engine.room_changed(POLL_SECONDS)

    def _tell(self) -> None:
        """Report its position to every waiting session."""
        waiting = [waiter for waiter in self._waiting if waiter.refused]
        for position, waiter in enumerate(waiting, 1):
            waiter.tell(position, len(waiting), self._estimate(position))

    def _estimate(self, position: int) -> float | None:
        """Estimated seconds until a place is free, from recent waits.

        Before there are any, from the stays so far: a session is expected to stay as long again. None without either.
        """
        recent, admitted = self._seconds_a_place, self._admitted
        if recent:
            return round(position * sum(recent) / len(recent), 1)
        if not admitted:
            return None
        stay = time.monotonic() - sum(admitted) / len(admitted)
        steps = math.ceil(position * stay / len(admitted) / STEP_SECONDS)
        return min(self._settings.queue_timeout, float(STEP_SECONDS * steps))

    async def _try(self, order: Open, started: bool) -> tuple[EngineSession | None, PafuError | None]:
        """Open the session, or return why no place is free. If the worker dies meanwhile, retry once. Raises
        PafuError."""
        patience = self._settings.load_timeout if started else self._settings.ready_wait
        for last in (False, True):
            await self._engine.wait_ready(patience)
            try:
                return await self._engine.open(order), None
            except PafuError as error:
                if error.kind.code == "session_rejected":
                    return None, error
                if last or error.kind.code not in ("worker_failed", "not_ready"):
                    raise
        raise AssertionError("the second try returns or raises")
