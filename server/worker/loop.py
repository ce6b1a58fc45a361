"""The worker process: schedule, generate, encode, emit. It owns the model; the front owns the viewers.

The supervisor starts it as ``python -m server.worker FD``, where FD is its end of a socket pair. It exits when the
socket closes, so that no orphan keeps the device.
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

from cache.config import room_for_caches
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
from server.worker.finishing import MOST_WAITING, Finishing, InlineExecutor
from server.worker.generator import DeviceLost, Generator, StartError, device_bytes
from server.worker.group import load as load_model
from server.worker.scheduler import choose, leaves_room, seconds_until_due
from server.worker.session import BegunChunk, EncodedChunk, WorkerSession

START_FAILED = 78  # exit status: do not restart (EX_CONFIG)
DEVICE_SUSPECT = 70  # exit status: device error, the process must not continue (EX_SOFTWARE)
CONFIGURE_WITHIN = 30.0  # seconds
DISK_POLL = 0.02
FINISH_POLL = 0.002
CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch raises a plain RuntimeError
MEASURED = 3  # chunks with a full cache; the fastest counts, so that a busy moment does not lower the session limit
MEASURE_WITHIN = 3.0  # seconds; slower models are measured with fewer chunks
UNKNOWN_FAILURE = "generation_failed"
HOPELESS = {  # failures of the first chunk that another try would repeat: what to do
    "not_finite": "these weights are damaged, or belong to another model: download them again",
    "out_of_memory": "free memory, reduce the size of the pictures, or choose a smaller model",
}
WARM_UP = CacheChoice(policy="window", budget_latents=6.0, sink_latents=0, recent_latents=3)

log = logging.getLogger("pafu.worker")


class Abandoned(Exception):
    """The session was closed while its chunk was being generated."""


Loader = Callable[[Configure], Generator]


class Worker:
    """The step loop and its sessions. Generates one chunk at a time; ``executor`` decodes and encodes."""

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
        self._finishing = Finishing(executor or InlineExecutor())
        self._disk = ThreadPoolExecutor(1, "disk")
        self._parking: dict[str, tuple[int, Future[None]]] = {}  # session -> its chunks, the pending write

    def run(self) -> None:
        """Step until the front sends Shutdown. Raises ChannelClosed if the front is gone."""
        while not self._stopping:
            self.step()
        self._emit(self._finishing.waited_for())
        self._disk.shutdown()
        self._report_parked()

    def step(self) -> None:
        """Handle messages, start at most one chunk for the most urgent session, and send finished chunks."""
        self.receive()
        if self.schedule():
            self._emit(self._finishing.waited_for(MOST_WAITING))
        if session := self.schedule():  # schedule again: the chunks just sent change what is due
            with logs.about(**session.ids), self._contained(session):
                self._finishing.add(session, self.generate(session))
        self._emit(self._finishing.done())

    def receive(self) -> None:
        """Send the heartbeat, then receive and handle messages; sleeps while no session is due."""
        now = time.monotonic()
        self._beat(now)
        self._report_parked()
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
        """The due live session with the least playout slack, or else a background session if there is time for it."""
        now = time.monotonic()
        if self._stopping:
            return None
        return choose(((session, session.playout) for session in self._live()), now) or self._background(now)

    def _live(self) -> list[WorkerSession]:
        """Live sessions, least recently served first, so that sessions without slack take turns."""
        live = [session for session in self._sessions.values() if not session.background and not session.complete]
        return sorted(live, key=lambda session: session.last_served)

    def _background(self, now: float) -> WorkerSession | None:
        """The least recently served background session, if its chunk makes no viewer wait."""
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
        """The heartbeat, with memory and cache usage."""
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
        """Between two model passes: send the heartbeat and finished chunks. Raises Abandoned if the session is over."""
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
        """Generate the session's next chunk, with the changes due for it."""
        events, refused = session.apply_pending()
        for rejected in refused:
            self._channel.send(rejected)
        try:
            return session.generate(events, lambda: self._before_pass(session))
        except Exception:
            self._emit(self._finishing.waited_for())  # earlier chunks are complete
            raise

    def _emit(self, finished: Iterable[tuple[WorkerSession, Future[EncodedChunk]]]) -> None:
        """Send finished chunks to the front; end videos that have all their pictures."""
        for session, made in finished:
            if self._over(session):
                continue
            with logs.about(**session.ids), self._contained(session):
                self._channel.send(session.deliver(made.result()))
                if session.complete and session.sent:
                    self._end(session, "complete")

    @contextlib.contextmanager
    def _contained(self, session: WorkerSession) -> Iterator[None]:
        """Limit a failure to its session, which ends with an error code and frees its memory."""
        try:
            yield
            return
        except ChannelClosed:
            raise
        except Abandoned:  # already closed, or Close is in the inbox
            return
        except Exception as error:
            if device_suspect(error):
                raise
            code, message = failure_code(error), f"generation failed: {type(error).__name__}: {error}"
            if code == "cache_full":  # expected with policy full, not an error
                message = f"the session's cache is full: {error}"
                log.info("session %s ends: %s", session.id, message)
            else:
                log.exception("session %s failed", session.id)
            self._end(session, "failed", code, message)
        self._generator.release_memory()  # only here do the error's frames no longer hold the tensors

    def handle(self, message: FrontMessage) -> None:
        """Handle one message; commands to a session that is over have no effect."""
        match message:
            case Open():
                self._open(message)
            case Shutdown():
                self._stopping = True
            case Configure():
                raise ValueError("the worker is already configured")
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
        """Park or finish a session after the chunks already started."""
        self._emit(self._finishing.waited_for())
        if self._over(session):
            return
        if isinstance(message, Park):
            self._park(session, Path(message.path))
        else:
            self._end(session, "stopped")

    def _park(self, session: WorkerSession, path: Path) -> None:
        """Write the session's state in a thread, so that no viewer waits for the disk.

        The front is notified once the file is written and the memory is free.
        """
        del self._sessions[session.id]
        self._parking[session.id] = session.chunks, self._disk.submit(lambda: write_whole(path, session.snapshot()))

    def _report_parked(self) -> None:
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
    """Whether the error is a device error (illegal access, lost GPU), after which the process must not continue."""
    if isinstance(error, DeviceLost):
        return True
    return any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__) or "CUDA error" in str(error)


def failure_code(error: Exception) -> str:
    """The error code for a failed session; library errors are recognized by class name or message."""
    names = {kind.__name__ for kind in type(error).__mro__}
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if names & {"OutOfMemoryError", "MemoryError"} or no_memory or CPU_OUT_OF_MEMORY in str(error):
        return "out_of_memory"
    if "CacheFull" in names:
        return "cache_full"
    return "not_finite" if "NotFiniteError" in names else UNKNOWN_FAILURE


def warm_up(generator: Generator) -> float:
    """Generate one chunk through model, encoder and muxer; returns the seconds it took. Raises StartError."""
    began = time.perf_counter()
    order = Open(session="", prompt="warm up", seed=0, lead_seconds=1.0, cache=WARM_UP, pictures=None)
    session = WorkerSession(order, generator)
    try:
        session.encode(session.generate(session.apply_pending()[0]))
    except EncoderError as error:
        raise StartError(f"the model's pictures do not match its spec: {error}") from error
    except Exception as error:
        if (hint := HOPELESS.get(failure_code(error))) is None:
            raise
        raise StartError(f"the first chunk failed: {' '.join(str(error).split())[:200]}; {hint}") from error
    return time.perf_counter() - began


def check_policy(generator: Generator, configure: Configure) -> None:
    """Raises StartError if the configured cache cannot be used with this model on these devices."""
    chosen = [configure.called[name] for name in ("cache_policy", "kv_dtype") if name in configure.called]
    if configure.usual is None or not chosen:
        return
    try:
        generator.open("check", 0, configure.usual)
    except ValueError as error:
        raise StartError(f"{' and '.join(chosen)}: {error}") from error


def measure(generator: Generator, cache: CacheChoice) -> float | None:
    """Seconds per chunk of a single session with a full cache, at full speed.

    None if such a session fails here; opening one then reports why.
    """
    order = Open(session="", prompt="measure", seed=0, lead_seconds=1.0, cache=cache, pictures=None)
    until, taken = time.perf_counter() + MEASURE_WITHIN, list[float]()
    chunks = math.ceil(cache.budget_latents / generator.spec.chunk_latents) + MEASURED
    if cache.policy == "full":  # a session ends when its cache is full
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
        log.warning("the number of real-time sessions could not be measured: %s", error)
        return None
    return min(taken[-MEASURED:])


def serve(channel: Channel, load: Loader) -> int:
    """Run the worker: configure, load, warm up, step. Returns the exit status."""
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
        cache_room_bytes=configure.cache_room_bytes or _room(generator, configure),
        codec_bytes=generator.spec.codec_bytes(generator.dtype),
        lacking=generator.lacking,
        versions=generator.versions,
        chunk_seconds=chunk_seconds,
    )
    channel.send(ready)
    worker = Worker(channel, generator, configure.beat_seconds, generator.decoding_thread())
    for message in received[1:]:
        worker.handle(message)
    worker.run()
    return 0


def _room(generator: Generator, configure: Configure) -> int:
    """Bytes for the caches of all sessions, of the memory that is free after warm-up."""
    working = generator.working_bytes(configure.usual or WARM_UP, configure.parts.text_placement)
    return room_for_caches(round(configure.memory_share * generator.free_bytes()), working)


def main(load: Loader = load_model) -> int:
    """Entry point: ``python -m server.worker FD``."""
    faulthandler.enable()
    leave_signals_to_the_front()
    logs.configure("info", "text", process="worker")  # until the front sends its settings
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    try:
        return serve(Channel(sock), load)
    except ChannelClosed:
        return 0
    except DeviceLost as error:
        log.error("%s", error)
        return DEVICE_SUSPECT
    except Exception as error:
        log.exception("the worker failed")
        return DEVICE_SUSPECT if device_suspect(error) else 1
