"""The client without asyncio: the same streams and jobs, run by an event loop in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from pafu_client import http, stills
from pafu_client import jobs as async_jobs
from pafu_client import stream as async_stream
from pafu_client.jobs import Variant, Video
from pafu_client.messages import Camera, Chunk, Event, SessionDone, VideoStart
from pafu_client.options import Options, StillOptions, VideoOptions, WatchOptions

T = TypeVar("T")
P = ParamSpec("P")


def models(url: str, api_key: str | None = None) -> list[dict[str, Any]]:
    """The models of the server at ``url``. Raises PafuError."""
    return asyncio.run(http.models(url, api_key))


def wait_until_ready(url: str, timeout: float = 60.0) -> None:
    """Return when the server at ``url`` can start a stream. Raises PafuError ``not_ready`` after ``timeout``
    seconds."""
    asyncio.run(http.wait_until_ready(url, timeout))


def still(url: str, prompt: str, *, at_seconds: float = 0.0, **options: Unpack[StillOptions]) -> bytes:
    """One picture of a stream as JPEG; see ``pafu_client.still``. Raises PafuError."""
    return asyncio.run(stills.still(url, prompt, at_seconds=at_seconds, **options))


@contextmanager
def connect(url: str, **options: Unpack[Options]) -> Iterator[VideoStream]:
    """Open a live stream: ``with connect(url, prompt=...) as stream: for chunk in stream: ...``. Raises PafuError.

    ``on_event`` is called in the loop's thread.
    """
    with _blocking(async_stream.connect(url, **options)) as stream:
        yield stream


@contextmanager
def watch(url: str, session_id: str, **options: Unpack[WatchOptions]) -> Iterator[VideoStream]:
    """Watch another viewer's session; see ``pafu_client.watch``. Raises PafuError."""
    with _blocking(async_stream.watch(url, session_id, **options)) as stream:
        yield stream


@contextmanager
def _blocking(opening: AbstractAsyncContextManager[async_stream.VideoStream]) -> Iterator[VideoStream]:
    with _loop_in_thread() as loop:
        stream = _wait(loop, opening.__aenter__)
        try:
            yield VideoStream(stream, loop)
        finally:
            _wait(loop, opening.__aexit__, None, None, None)


class VideoStream:
    """A running stream with blocking methods; see ``pafu_client.VideoStream``."""

    def __init__(self, stream: async_stream.VideoStream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def init(self) -> VideoStart:
        return self._stream.init

    @property
    def done(self) -> SessionDone | None:
        return self._stream.done

    @property
    def events(self) -> deque[Event]:
        return self._stream.events

    def __iter__(self) -> VideoStream:
        return self

    def __next__(self) -> Chunk:
        chunk = self.receive()
        if chunk is None:
            raise StopIteration
        return chunk

    def receive(self) -> Chunk | None:
        """The next chunk, or None when the stream ended normally. Raises PafuError if it failed."""
        return _wait(self._loop, self._stream.receive)

    def interact(self, *, prompt: str | None = None, camera: Camera | None = None, event_id: str | None = None) -> str:
        """Change the prompt, the camera or both from the next chunk on; returns the event's id."""
        return _wait(self._loop, self._stream.interact, prompt=prompt, camera=camera, event_id=event_id)

    def playback(self, position_seconds: float) -> None:
        """Report the playhead, in seconds of media since the start of the stream."""
        _wait(self._loop, self._stream.playback, position_seconds)

    def pause(self) -> None:
        """Stop generation until ``resume``; the session keeps its place and memory."""
        _wait(self._loop, self._stream.pause)

    def resume(self) -> None:
        """Continue after ``pause``."""
        _wait(self._loop, self._stream.resume)

    def stop(self) -> None:
        """Ask the server to stop after the current chunk; keep iterating to receive what is already generated."""
        _wait(self._loop, self._stream.stop)


class Jobs:
    """Videos as jobs with blocking methods: ``with Jobs(url) as jobs: ...``; see ``pafu_client.Jobs``."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 60.0) -> None:
        self._jobs = async_jobs.Jobs(url, api_key=api_key, patience=patience)
        self._thread = _loop_in_thread()

    def __enter__(self) -> Self:
        self._loop = self._thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _wait(self._loop, self._jobs.__aexit__)
        finally:
            self._thread.__exit__(None, None, None)

    def create(self, prompt: str, **options: Unpack[VideoOptions]) -> Video:
        """Create a video."""
        return _wait(self._loop, self._jobs.create, prompt, **options)

    def extend(self, video: Video | str, prompt: str, *, seconds: float = 4.0) -> Video:
        """Extend a completed video by ``seconds``."""
        return _wait(self._loop, self._jobs.extend, video, prompt, seconds=seconds)

    def remix(self, video: Video | str, prompt: str) -> Video:
        """Create a video with the same options, including the seed, and another prompt."""
        return _wait(self._loop, self._jobs.remix, video, prompt)

    def get(self, video: Video | str) -> Video:
        """The video's current state."""
        return _wait(self._loop, self._jobs.get, video)

    def list(
        self, *, limit: int = 20, after: Video | str | None = None, oldest_first: bool = False
    ) -> tuple[Video, ...]:
        """Up to ``limit`` videos (1 to 100) after ``after``, newest first."""
        return _wait(self._loop, self._jobs.list, limit=limit, after=after, oldest_first=oldest_first)

    def delete(self, video: Video | str) -> None:
        """Delete the video; a running job stops."""
        _wait(self._loop, self._jobs.delete, video)

    def wait(
        self, video: Video | str, *, on_progress: Callable[[Video], None] | None = None, timeout: float | None = None
    ) -> Video:
        """Wait for the video to complete. ``on_progress`` is called in the loop's thread. Raises the job's error."""
        return _wait(self._loop, self._jobs.wait, video, on_progress=on_progress, timeout=timeout)

    def content(self, video: Video | str, variant: Variant = "video") -> bytes:
        """The bytes of a completed video, its thumbnail, its contact sheet or a short loop."""
        return _wait(self._loop, self._jobs.content, video, variant)

    def download(self, video: Video | str, path: str | PathLike[str], variant: Variant = "video") -> Path:
        """Write the content to a file, completely or not at all."""
        return _wait(self._loop, self._jobs.download, video, path, variant)


def _wait(
    loop: asyncio.AbstractEventLoop, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs
) -> T:
    """The result of ``work``; an interrupt of the waiting thread (Ctrl-C) also cancels the work.

    The coroutine is made in the loop's thread: an interrupt can come between any two steps of this one, and would lose
    it.
    """
    result: Future[T] = Future()

    async def call() -> T:
        return await work(*args, **options)

    def start() -> None:
        task = loop.create_task(call())
        task.add_done_callback(lambda done: _copy(done, result))
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel))

    try:
        loop.call_soon_threadsafe(start)
        return result.result()
    except BaseException:
        result.cancel()
        raise


def _copy(task: asyncio.Task[T], result: Future[T]) -> None:
    """Pass the outcome of ``task`` on, unless its caller was interrupted."""
    if not result.set_running_or_notify_cancel():
        return
    if task.cancelled():
        result.set_exception(CancelledError())
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A running event loop; at the end it cancels what still runs, such as work whose caller was interrupted before it
    could wait."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        left = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), left))
        await left.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="pafu-client", daemon=True)
    thread.start()
    loop, left = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(left.set)
        thread.join()
