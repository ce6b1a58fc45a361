"""The live stream without asyncio: the same stream, driven by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar, Unpack

from pafu_client import http
from pafu_client import stream as async_stream
from pafu_client.messages import Camera, Chunk, Event, SessionDone, VideoStart
from pafu_client.options import Options, WatchOptions

T = TypeVar("T")


def models(url: str, api_key: str | None = None) -> list[dict[str, Any]]:
    """The models of the server at ``url``. Raises PafuError."""
    return asyncio.run(http.models(url, api_key))


def wait_until_ready(url: str, timeout: float = 60.0) -> None:
    """Return when the server at ``url`` can stream. Raises PafuError ``not_ready`` after ``timeout`` seconds."""
    asyncio.run(http.wait_until_ready(url, timeout))


@contextmanager
def connect(url: str, **options: Unpack[Options]) -> Iterator[VideoStream]:
    """Open a live stream: ``with connect(url, prompt=...) as stream: for chunk in stream: ...``. Raises PafuError.

    ``on_event`` is called in the loop's thread.
    """
    with _blocking(async_stream.connect(url, **options)) as stream:
        yield stream


@contextmanager
def watch(url: str, session_id: str, **options: Unpack[WatchOptions]) -> Iterator[VideoStream]:
    """Look on at somebody's session; see ``pafu_client.watch``. Raises PafuError."""
    with _blocking(async_stream.watch(url, session_id, **options)) as stream:
        yield stream


@contextmanager
def _blocking(opening: AbstractAsyncContextManager[async_stream.VideoStream]) -> Iterator[VideoStream]:
    with _loop_in_thread() as loop:
        stream = _wait(loop, opening.__aenter__())
        try:
            yield VideoStream(stream, loop)
        finally:
            _wait(loop, opening.__aexit__(None, None, None))


class VideoStream:
    """A running stream, blocking; see ``pafu_client.VideoStream``."""

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
        """The next chunk, or None when the stream ended in order. Raises PafuError when it ended otherwise."""
        return _wait(self._loop, self._stream.receive())

    def interact(self, *, prompt: str | None = None, camera: Camera | None = None, event_id: str | None = None) -> str:
        """Change the prompt, the camera or both from the next chunk on; returns the event's id."""
        return _wait(self._loop, self._stream.interact(prompt=prompt, camera=camera, event_id=event_id))

    def playback(self, position_seconds: float) -> None:
        """Report the playhead, in seconds of media since the start of the stream."""
        _wait(self._loop, self._stream.playback(position_seconds))

    def pause(self) -> None:
        """Make nothing more until ``resume``; the place and the memory of the session are kept."""
        _wait(self._loop, self._stream.pause())

    def resume(self) -> None:
        """Go on after ``pause``."""
        _wait(self._loop, self._stream.resume())

    def stop(self) -> None:
        """Ask for the end after the chunk in hand; go on iterating to receive what was already made."""
        _wait(self._loop, self._stream.stop())


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; an interrupt of the waiting thread (Ctrl-C) cancels the work too."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="pafu-client", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
