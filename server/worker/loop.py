"""The worker process: schedule, generate, encode, emit. It owns the model; the front owns the viewers.

Started by the supervisor as ``python -m server.worker FD``, where FD is its end of a socket pair. It exits when that
line closes, so no orphan keeps the device.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from server.disk import write_whole
from server.ipc.channel import Channel, ChannelClosed
from server.ipc.messages import (
    Beat,
    CacheChoice,
    Close,
    Configure,
    Delivered,
    Ended,
    Finish,
    FrontMessage,
    Interact,
    Jpeg,
    Open,
    Opened,
    Park,
    Pause,
    Playhead,
    Ready,
    Resume,
    Shutdown,
    StartFailed,
)
from server.media.encoder import EncoderError
from server.process import leave_signals_to_the_front, rss_bytes
from server.telemetry import logs
from server.worker.finishing import MOST_WAITING, AtOnce, Finishing
from server.worker.generator import Generator, StartError, device_bytes, load_generator
from server.worker.scheduler import choose, leaves_room, seconds_until_due
from server.worker.session import BegunChunk, EncodedChunk, WorkerSession

START_FAILED = 78  # exit status: do not start again (EX_CONFIG)
DEVICE_SUSPECT = 70  # exit status: the device misbehaved, the process must not go on (EX_SOFTWARE)
CONFIGURE_WITHIN = 30.0
DISK_POLL = 0.02
FINISH_POLL = 0.002
CACHE_SHARE = 0.7  # of the memory that is free after the warm-up; the rest is for the model's own working memory
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch has no class for it, only this RuntimeError
MEASURED = 3  # chunks with a full cache; the fastest counts, or a busy moment would lower the session limit
MEASURE_WITHIN = 3.0  # seconds; slower models are measured on fewer chunks
WARM_UP = CacheChoice(policy="window", budget_latents=6.0, sink_latents=0, recent_latents=3)

log = logging.getLogger("pafu.worker")


class Abandoned(Exception):
    """The session was closed while its chunk was being made."""


Loader = Callable[[Configure], Generator]


class Worker:
    """The step loop and the sessions that it serves, one generation at a time; ``executor`` decodes and encodes."""

    def __init__(
        self, channel: Channel, generator: Generator, beat_seconds: float, executor: Executor | None = None
    ) -> None:
        self._channel = channel
        self._generator = generator
        self._beat_seconds = beat_seconds
        self._next_beat = 0.0
        self._sessions: dict[str, WorkerSession] = {}
        self._inbox: list[FrontMessage] = []
        self._stopping = False
        self._finishing = Finishing(executor or AtOnce())
        self._disk = ThreadPoolExecutor(1, "disk")
        self._parking: dict[str, tuple[int, Future[None]]] = {}  # session -> its chunks, the writing of its state

    def run(self) -> None:
        """Step until the front says shutdown. Raises ChannelClosed when the front is gone."""
        while not self._stopping:
            self.step()
        self._emit(self._finishing.waited_for())
        self._disk.shutdown()
        self._tell_parked()

    def step(self) -> None:
        """Handle messages; begin at most one chunk, for the session that needs it most; send what is finished."""
        self.receive()
        if self.schedule():
            self._emit(self._finishing.waited_for(MOST_WAITING))
        if session := self.schedule():  # what was sent meanwhile may have to be read first
            with logs.about(**session.ids), self._contained(session):
                self._finishing.add(session, self.generate(session))
        self._emit(self._finishing.done())

    def receive(self) -> None:
        """Receive from the front, sleeping while nobody is due; send the heartbeat."""
        now = time.monotonic()
        self._beat(now)
        self._tell_parked()
        longest = max(0.0, self._next_beat - now)
        longest = min(longest, DISK_POLL if self._parking else math.inf, FINISH_POLL if self._finishing else math.inf)
        if self._stopping or self._inbox or self.schedule():
            longest = 0.0
        due = seconds_until_due((session.playout for session in self._live()), now, longest)
        self._inbox += self._channel.receive(due)
        received, self._inbox = self._inbox, []
        for message in received:
            self.handle(message)

    def schedule(self) -> WorkerSession | None:
        """The live session with the least playout slack, if any is due; else a background one, if that leaves room."""
        now = time.monotonic()
        if self._stopping:
            return None
        return choose(((session, session.playout) for session in self._live()), now) or self._background(now)

    def _live(self) -> list[WorkerSession]:
        """Live sessions, longest unserved first, so that all that have run dry take turns."""
        live = [session for session in self._sessions.values() if not session.background and not session.complete]
        return sorted(live, key=lambda session: session.last_served)

    def _background(self, now: float) -> WorkerSession | None:
        """The background session that waited longest, if its chunk cannot make a viewer wait."""
        jobs = [session for session in self._sessions.values() if session.background and not session.complete]
        due = [session for session in jobs if session.playout.wait(now) == 0.0]
        if not due:
            return None
        session = min(due, key=lambda session: session.last_served)
        live = ((other.playout, other.last_seconds) for other in self._live())
        return session if leaves_room(live, session.last_seconds, now) else None

    def _beat(self, now: float) -> None:
        if now >= self._next_beat:
            self._channel.send(self._figures())
            self._next_beat = now + self._beat_seconds

    def _figures(self) -> Beat:
        """The heartbeat, with what this process holds."""
        sessions = self._sessions.values()
        return Beat(
            sessions=len(sessions),
            rss_bytes=rss_bytes(),
            device_bytes=device_bytes(self._generator.device),
            cache_bytes=sum(session.cache_bytes for session in sessions),
            cache_tokens=sum(session.cache_tokens for session in sessions),
            cache_budget=sum(session.cache_budget for session in sessions),
        )

    def _before_pass(self, session: WorkerSession) -> None:
        """Between two passes of the model: beat, send what is finished, and stop at once when the session is over."""
        self._beat(time.monotonic())
        self._emit(self._finishing.done())
        self._inbox += self._channel.receive(0.0)
        if self._over(session) or any(
            isinstance(message, Close) and message.session == session.id for message in self._inbox
        ):
            raise Abandoned

    def _over(self, session: WorkerSession) -> bool:
        return self._sessions.get(session.id) is not session

    def generate(self, session: WorkerSession) -> BegunChunk:
        """The session's next chunk, with the changes that waited for it."""
        events, refused = session.apply_pending()
        for rejected in refused:
            self._channel.send(rejected)
        try:
            return session.generate(events, lambda: self._before_pass(session))
        except Exception:
            self._emit(self._finishing.waited_for())  # what was begun before is whole
            raise

    def _emit(self, finished: Iterable[tuple[WorkerSession, Future[EncodedChunk]]]) -> None:
        """Hand finished chunks to the front; a video that has all its pictures is over."""
        for session, made in finished:
            if self._over(session):
                continue
            with logs.about(**session.ids), self._contained(session):
                self._channel.send(session.deliver(made.result()))
                if session.complete and session.sent:
                    self._end(session, "complete")

    @contextlib.contextmanager
    def _contained(self, session: WorkerSession) -> Iterator[None]:
        """A session that fails ends alone with a code, and its memory is freed."""
        try:
            yield
            return
        except ChannelClosed:
            raise
        except Abandoned:  # it is over, or its Close is in the inbox
            return
        except Exception as error:
            if device_suspect(error):
                raise
            code, message = failure_code(error), f"generation failed: {type(error).__name__}: {error}"
            if code == "cache_full":  # what was asked for is at its end; nothing is broken
                message = f"the session's cache is full: {error}"
                log.info("session %s ends: %s", session.id, message)
            else:
                log.exception("session %s failed", session.id)
            self._end(session, "failed", code, message)
        self._generator.release_memory()  # here, where the error's frames no longer hold the tensors

    def handle(self, message: FrontMessage) -> None:
        """Take in one message; commands to a session that is over do nothing."""
        match message:
            case Open():
                self._open(message)
            case Shutdown():
                self._stopping = True
            case Configure():
                raise ValueError("a worker is configured once")
            case _:
                if session := self._sessions.get(message.session):
                    self._handle_session(session, message)

    def _handle_session(self, session: WorkerSession, message: FrontMessage) -> None:
        now = time.monotonic()
        match message:
            case Interact():
                session.pending.append(message)
            case Playhead():
                session.playout.report(message.seconds)
            case Delivered():
                session.delivered(message.index, now)
            case Pause():
                session.playout.paused = True
            case Resume():
                session.playout.paused = False
                session.playout.joined(now)
            case Jpeg():
                session.jpeg = message.wanted
            case Park() | Finish():
                self._leave(session, message)
            case Close():
                del self._sessions[session.id]

    def _open(self, order: Open) -> None:
        try:
            session = WorkerSession(order, self._generator)
        except Exception as error:
            if device_suspect(error):
                raise
            code = "invalid_message" if isinstance(error, ValueError) else failure_code(error)
            failed = Ended(session=order.session, chunks=0, reason="failed", code=code, message=str(error))
        else:
            self._sessions[order.session] = session
            self._channel.send(Opened(session=order.session, mime=session.mime, init=session.init))
            return
        self._generator.release_memory()
        self._channel.send(failed)

    def _leave(self, session: WorkerSession, message: Park | Finish) -> None:
        """Behind the chunks that are begun."""
        self._emit(self._finishing.waited_for())
        if self._over(session):
            return
        if isinstance(message, Park):
            self._park(session, Path(message.path))
        else:
            self._end(session, "stopped")

    def _park(self, session: WorkerSession, path: Path) -> None:
        """Leave the session to a thread that takes its state and writes it: no viewer waits for that, or for the disk.
        Its memory is free when the front is told."""
        del self._sessions[session.id]
        self._parking[session.id] = session.chunks, self._disk.submit(lambda: write_whole(path, session.snapshot()))

    def _tell_parked(self) -> None:
        for name, (chunks, written) in list(self._parking.items()):
            if written.done():
                del self._parking[name]
                error = written.exception()
                if isinstance(error, Exception) and device_suspect(error):
                    raise error
                code, message = ("storage_failed", str(error)) if error else (None, "")
                self._channel.send(Ended(session=name, chunks=chunks, reason="parked", code=code, message=message))

    def _end(self, session: WorkerSession, reason: str, code: str | None = None, message: str = "") -> None:
        del self._sessions[session.id]
        ended = Ended(session=session.id, chunks=session.chunks, reason=reason, code=code, message=message)
        self._channel.send(ended)


def device_suspect(error: Exception) -> bool:
    """After an error of the device itself (an illegal access, a lost GPU) nothing in this process can be trusted."""
    return any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__) or "CUDA error" in str(error)


def failure_code(error: Exception) -> str:
    """The code under which a session fails; the libraries' own errors are known by name, or else by their words."""
    names = {kind.__name__ for kind in type(error).__mro__}
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if names & {"OutOfMemoryError", "MemoryError"} or no_memory or CPU_OUT_OF_MEMORY in str(error):
        return "out_of_memory"
    if "CacheFull" in names:
        return "cache_full"
    return "not_finite" if "NotFiniteError" in names else "generation_failed"


def warm_up(generator: Generator) -> float:
    """Make one chunk through model, encoder and muxer; seconds it took."""
    began = time.perf_counter()
    order = Open(session="", prompt="warm up", seed=0, lead_seconds=1.0, cache=WARM_UP, pictures=None)
    session = WorkerSession(order, generator)
    try:
        session.encode(session.generate(session.apply_pending()[0]))
    except EncoderError as error:
        raise StartError(f"the model does not make the pictures that its spec promises: {error}") from error
    return time.perf_counter() - began


def check_policy(generator: Generator, configure: Configure) -> None:
    """Raises StartError when no session can have the cache policy that the operator chose."""
    if configure.usual is None or "cache_policy" not in configure.called:
        return
    try:
        generator.open("check", 0, configure.usual)
    except ValueError as error:
        raise StartError(f"{configure.called['cache_policy']}: {error}") from error


def measure(generator: Generator, cache: CacheChoice) -> float | None:
    """Seconds between two chunks of one session, as fast as they are made, once its cache is full; None when such a
    session cannot be made here (who asks for it will be told why)."""
    order = Open(session="", prompt="measure", seed=0, lead_seconds=1.0, cache=cache, pictures=None)
    until, taken = time.perf_counter() + MEASURE_WITHIN, list[float]()
    chunks = math.ceil(cache.budget_latents / generator.spec.chunk_latents) + MEASURED
    if cache.policy == "full":  # it ends when its cache is full
        chunks = max(1, math.floor(cache.budget_latents / generator.spec.chunk_latents))
    try:
        session = WorkerSession(order, generator)
        with generator.decoding_thread() as executor:
            finishing = Finishing(executor)
            while len(taken) < chunks and (not taken or time.perf_counter() < until):
                began = time.perf_counter()
                finishing.add(session, session.generate(session.apply_pending()[0]))
                for _, made in finishing.waited_for(MOST_WAITING):
                    made.result()
                taken.append(time.perf_counter() - began)
    except Exception as error:
        if device_suspect(error):
            raise
        log.warning("how many sessions play in real time is unknown: %s", error)
        return None
    return min(taken[-MEASURED:])


def serve(channel: Channel, load: Loader) -> int:
    """The life of a worker: configure, load, warm up, step; the exit status."""
    received = channel.receive(CONFIGURE_WITHIN)
    if not received or not isinstance(received[0], Configure):
        log.error("the front sent no configuration")
        return 1
    configure = received[0]
    logs.configure(configure.log_level, configure.log_format, process="worker")
    try:
        began = time.perf_counter()
        generator = load(configure)
        loaded = time.perf_counter() - began
        warm = warm_up(generator)
        check_policy(generator, configure)
        chunk_seconds = measure(generator, configure.usual) if configure.usual is not None else None
    except StartError as error:
        channel.send(StartFailed(message=str(error)))
        return START_FAILED
    ready = Ready(
        weights=generator.weights,
        digest=generator.digest,
        device=generator.device,
        load_seconds=loaded,
        warm_up_seconds=warm,
        dtype=generator.dtype,
        cache_room_bytes=configure.cache_room_bytes
        or round(CACHE_SHARE * configure.memory_share * generator.free_bytes()),
        versions=generator.versions,
        chunk_seconds=chunk_seconds,
    )
    channel.send(ready)
    worker = Worker(channel, generator, configure.beat_seconds, generator.decoding_thread())
    for message in received[1:]:
        worker.handle(message)
    worker.run()
    return 0


def main(load: Loader = load_generator) -> int:
    """Entry point: ``python -m server.worker FD``."""
    faulthandler.enable()
    leave_signals_to_the_front()
    logs.configure("info", "text", process="worker")  # until the front says how
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    try:
        return serve(Channel(sock), load)
    except ChannelClosed:
        return 0
    except Exception as error:
        log.exception("the worker cannot go on")
        return DEVICE_SUSPECT if device_suspect(error) else 1
