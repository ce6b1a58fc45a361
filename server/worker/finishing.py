"""Chunks on their way from latents to bytes: decoded and encoded in order, beside the passes of the next chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from server.ipc.messages import Fragment
from server.worker.session import BegunChunk, EncodedChunk, WorkerSession

MOST_WAITING = 1  # chunks that may be unfinished when another is begun


class AtOnce(Executor):
    """Does what it is given where it is called."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Finishing:
    """The unfinished chunks of all sessions, oldest first; ``executor`` does one thing at a time."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: deque[tuple[WorkerSession, Future[EncodedChunk]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, session: WorkerSession, begun: BegunChunk) -> None:
        self._waiting.append((session, self._executor.submit(session.encode, begun)))

    def done(self) -> Iterator[tuple[WorkerSession, Future[EncodedChunk]]]:
        """What is finished, in order; removed as it is taken."""
        while self._waiting and self._waiting[0][1].done():
            yield self._waiting.popleft()

    def waited_for(self, most: int = 0) -> Iterator[tuple[WorkerSession, Future[EncodedChunk]]]:
        """As ``done``, and waits until at most ``most`` are unfinished."""
        while len(self._waiting) > most:
            self._waiting[0][1].exception()  # waits, and raises nothing
            yield self._waiting.popleft()
        yield from self.done()


def fragments(session: WorkerSession, executor: Executor, stopped: Callable[[], object]) -> Iterator[Fragment]:
    """A session's chunks until it is complete or ``stopped``; what is begun then still comes."""
    finishing = Finishing(executor)
    while not (session.complete or stopped()):
        finishing.add(session, session.generate(session.apply_pending()[0]))
        for _, made in finishing.waited_for(MOST_WAITING):
            yield session.deliver(made.result())
    for _, made in finishing.waited_for():
        yield session.deliver(made.result())
