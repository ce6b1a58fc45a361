"""Decode and encode denoised chunks, in order, in parallel with the passes of the next chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from server.ipc.messages import Fragment
from server.worker.session import BegunChunk, EncodedChunk, WorkerSession

MOST_WAITING = 1  # chunks that may be unfinished when the next one starts


class InlineExecutor(Executor):
    """An executor that runs each task in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Finishing:
    """The unfinished chunks of all sessions, oldest first; ``executor`` runs one task at a time."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: deque[tuple[WorkerSession, Future[EncodedChunk]]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, session: WorkerSession, begun: BegunChunk) -> None:
        self._waiting.append((session, self._executor.submit(session.encode, begun)))

    def done(self) -> Iterator[tuple[WorkerSession, Future[EncodedChunk]]]:
        """Remove and yield the finished chunks, in order."""
        while self._waiting and self._waiting[0][1].done():
            yield self._waiting.popleft()

    def waited_for(self, most: int = 0) -> Iterator[tuple[WorkerSession, Future[EncodedChunk]]]:
        """Like ``done``, but wait until at most ``most`` chunks are unfinished."""
        while len(self._waiting) > most:
            self._waiting[0][1].exception()  # waits without raising
            yield self._waiting.popleft()
        yield from self.done()


def fragments(session: WorkerSession, executor: Executor, stopped: Callable[[], object]) -> Iterator[Fragment]:
    """Yield a session's chunks until it is complete or ``stopped``, including those already started."""
    finishing = Finishing(executor)
    while not (session.complete or stopped()):
        finishing.add(session, session.generate(session.apply_pending()[0]))
        for _, made in finishing.waited_for(MOST_WAITING):
            yield session.deliver(made.result())
    for _, made in finishing.waited_for():
        yield session.deliver(made.result())
