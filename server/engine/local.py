"""The default engine: one supervised worker process on this machine.

Liveness is a heartbeat from the worker's step loop, not its pid. A worker that dies or falls silent is replaced with
a growing delay and its sessions are told; one that says that it can never start is not started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from model.spec import spec_named
from server.config import Settings
from server.engine.admission import Account, Capacity, cache_bytes, in_real_time
from server.engine.interface import EngineStatus, SessionEvent
from server.engine.last_words import LastWords
from server.errors import PafuError
from server.ipc.messages import (
    HEADER,
    Beat,
    CacheChoice,
    Close,
    Configure,
    Delivered,
    Ended,
    Finish,
    Fragment,
    Interact,
    Jpeg,
    Message,
    MessageError,
    Open,
    Opened,
    Park,
    Pause,
    Playhead,
    Ready,
    Rejected,
    Resume,
    Shutdown,
    StartFailed,
    WorkerMessage,
    decode_worker,
    frame,
    frame_length,
)
from server.process import module_command
from server.states import EngineState
from server.telemetry.observer import Observer

log = logging.getLogger("pafu.engine")

WORKER_COMMAND = module_command("server.worker")
MAX_FAILURES = 5  # deaths in a row, none of them after becoming ready
FIRST_DELAY, LONGEST_DELAY = 0.25, 10.0
BEAT_SECONDS = 0.5
LAST_WORD_WITHIN = 1.0
WORKER = "0"  # the number of the only worker, as metrics label it
WIDEST = "float32"  # what a cache is taken to hold before the worker has said


class LocalSession:
    """One session's line; the worker's events queue up here until the front reads them."""

    def __init__(self, engine: LocalEngine, session_id: str) -> None:
        self.id = session_id
        self.mime = ""
        self.init = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine = engine
        # bounded by the lead: the worker makes no more than that ahead of what was delivered
        self._queue: asyncio.Queue[SessionEvent] = asyncio.Queue()

    def put(self, event: SessionEvent) -> None:
        self._queue.put_nowait(event)

    async def events(self) -> AsyncIterator[SessionEvent]:
        while True:
            event = await self._queue.get()
            yield event
            if isinstance(event, Ended):
                return

    async def interact(self, change: Interact) -> None:
        await self._engine.send(change)

    async def playhead(self, seconds: float) -> None:
        await self._engine.send(Playhead(session=self.id, seconds=seconds))

    async def delivered(self, index: int) -> None:
        await self._engine.send(Delivered(session=self.id, index=index))

    async def pause(self) -> None:
        await self._engine.send(Pause(session=self.id))

    async def resume(self) -> None:
        await self._engine.send(Resume(session=self.id))

    async def jpeg(self, wanted: bool) -> None:
        await self._engine.send(Jpeg(session=self.id, wanted=wanted))

    async def park(self, path: Path) -> None:
        await self._engine.send(Park(session=self.id, path=str(path)))

    async def finish(self) -> None:
        await self._engine.send(Finish(session=self.id))

    async def close(self) -> None:
        await self._engine.release(self)


class LocalEngine:
    """Supervises the worker and carries messages between it and the sessions."""

    def __init__(self, settings: Settings, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._state = EngineState.STARTING
        self._message = "the worker is starting"
        self._changed = asyncio.Condition()
        self._sessions: dict[str, LocalSession] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._last_words: LastWords | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._ready: Ready | None = None
        self._rss = 0
        self._heard = time.monotonic()
        self._restarts = 0
        self._silent = False
        self.observer = Observer(spec_named(settings.model))
        self.observer.engine_state(self._state)
        self._spec = spec_named(settings.model)
        self._usual = CacheChoice.of(settings.cache())  # the cache of a session that asks for nothing
        self._by_speed: int | None = None  # the most that any worker found
        self._account = Account(settings.max_sessions or 1)
        self._room_changed = asyncio.Event()

    # ---- what the front asks

    async def start(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise_or_fail(), name="supervisor")

    async def stop(self, within: float) -> None:
        """Ask the worker to go, wait a little, then insist."""
        await self._become(EngineState.STOPPED, "the server is shutting down")
        await self.send(Shutdown())
        polite = self._ready is not None and within > 0  # a worker that still loads hears nothing
        if self._process is not None and polite:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within)
        self._kill()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        await self._end_process()

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self._state,
            message=self._message,
            sessions=len(self._sessions),
            restarts=self._restarts,
            worker_pid=self._process.pid if self._process and self._process.returncode is None else None,
            worker_rss_bytes=self._rss,
            ready=self._ready,
            silent_seconds=time.monotonic() - self._heard,
            cache_held_bytes=self._account.held_bytes,
            cache_room_bytes=self._account.room,
            capacity=self._capacity(),
        )

    def _capacity(self) -> Capacity:
        ready = self._ready
        return Capacity(
            by_speed=self._by_speed,
            by_memory=self._account.room // self.cache_bytes(self._usual) if ready else None,
            setting=self._settings.max_sessions,
            chunk_seconds=ready.chunk_seconds if ready else None,
        )

    def _make_room_for_all(self, ready: Ready) -> None:
        """As many sessions as fit from now on; a worker that starts while the machine is busy takes no place away."""
        self._account.room = ready.cache_room_bytes
        if ready.chunk_seconds is not None:
            self._by_speed = max(self._by_speed or 1, in_real_time(self._spec, ready.chunk_seconds))
        self._account.most = self._settings.max_sessions or self._by_speed or 1
        self.observer.sessions_limit(self._capacity().sessions or 1)

    def cache_bytes(self, cache: CacheChoice) -> int:
        return cache_bytes(self._spec, cache, self._ready.dtype if self._ready else WIDEST)

    async def room_changed(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._room_changed.wait()

    async def settled(self) -> None:
        """Return when the engine is ready, or has failed or stopped for good."""
        waiting = (EngineState.STARTING, EngineState.RESTARTING)
        async with self._changed:
            await self._changed.wait_for(lambda: self._state not in waiting)

    async def wait_ready(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.settled()
        if self._state is EngineState.READY:
            return
        codes = {EngineState.FAILED: "worker_failed", EngineState.STOPPED: "shutting_down"}
        raise PafuError(codes.get(self._state, "not_ready"), f"no session can begin: {self._message}")

    async def open(self, order: Open) -> LocalSession:
        """Place the session on the worker. Raises PafuError when the server is full or the worker refuses."""
        if self._state is not EngineState.READY:
            await self.wait_ready(0.0)
        needed = self.cache_bytes(order.cache)
        if not order.background:
            await self._displace(needed)
        self._account.hold(order, needed)
        session = LocalSession(self, order.session)
        self._sessions[session.id] = session
        try:
            await self.send(order)
            await session.opened
        except BaseException:
            await self.release(session)
            raise
        return session

    async def release(self, session: LocalSession) -> None:
        """Forget a session here and in the worker; harmless when it is already over."""
        if self._forget(session.id):
            await self.send(Close(session=session.id))

    def _forget(self, session_id: str) -> bool:
        """The session is over: its place is free. The worker frees the memory before it hears of the next one."""
        self._account.free(session_id)
        known = self._sessions.pop(session_id, None) is not None
        changed, self._room_changed = self._room_changed, asyncio.Event()
        changed.set()
        return known

    async def _displace(self, needed: int) -> None:
        """Make a live session's place out of background ones, if that helps."""
        for name in self._account.to_displace(needed):
            session = self._sessions[name]
            await self.send(Close(session=name))
            reason = "a viewer needed the place; go on when there is room again"
            self._take_for(session, Ended(session=name, chunks=0, reason="failed", code="preempted", message=reason))

    async def send(self, message: Message) -> None:
        """Write to the worker; a worker that is gone hears nothing, its sessions learn it from the supervisor."""
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(frame(message))
        with contextlib.suppress(OSError):
            await self._writer.drain()

    # ---- the supervisor

    async def _supervise_or_fail(self) -> None:
        try:
            await self._supervise()
        except Exception:
            log.exception("the supervisor failed")
            await self._become(EngineState.FAILED, "the supervisor failed; its error is in the log")
            self._fail_sessions("internal_error", self._message)

    async def _supervise(self) -> None:
        failures, delay = 0, FIRST_DELAY
        while True:
            was_ready, reason, final = await self._one_life()
            if self._state is EngineState.STOPPED:
                self._fail_sessions("shutting_down", "the server is shutting down")
                return
            failures, delay = (0, FIRST_DELAY) if was_ready else (failures + 1, min(2 * delay, LONGEST_DELAY))
            given_up = final or failures >= MAX_FAILURES
            if given_up:
                await self._become(EngineState.FAILED, reason)
            else:
                await self._become(EngineState.RESTARTING, f"the worker is restarting ({reason})")
            self._fail_sessions("worker_failed", f"the worker was lost ({reason})")
            if given_up:
                log.error("no worker will be started any more: %s; restart the server when its cause is gone", reason)
                return
            self._restarts += 1
            log.warning("the worker was lost (%s); starting another in %.2g s", reason, delay)
            await asyncio.sleep(delay)

    async def _one_life(self) -> tuple[bool, str, bool]:
        """Run one worker to its end: whether it was ever ready, why it ended, and whether that is final."""
        self._ready, self._process, self._silent, failure = None, None, False, None
        try:
            reader = await self._spawn()
            failure = await self._listen(reader)
        except (MessageError, OSError) as error:
            failure = str(error)
        status = await self._end_process()
        if isinstance(failure, StartFailed):
            return False, failure.message, True
        return self._ready is not None, failure or status, False

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # what asks a group for its end is the front's to answer
            )
        finally:
            theirs.close()
        assert self._process.stderr is not None
        self._last_words = LastWords(self._process.stderr)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        settings = self._settings
        weights = str(Path(settings.weights).resolve()) if settings.weights else None
        configure = Configure(
            model=settings.model,
            weights=weights,
            device=settings.device,
            threads=settings.threads,
            cache_room_bytes=settings.cache_room_bytes,
            beat_seconds=BEAT_SECONDS,
            log_level=settings.log_level,
            log_format=settings.log_format,
            salience_head=str(Path(settings.salience_head).resolve()) if settings.salience_head else None,
            usual=self._usual,
        )
        await self.send(configure)
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> str | StartFailed | None:
        """Hand out the worker's messages until it ends (None), falls silent (why) or says that it cannot start."""
        while True:
            patience = self._settings.worker_timeout if self._ready else self._settings.load_timeout
            try:
                async with asyncio.timeout(patience):
                    header = await reader.readexactly(HEADER.size)
                    body = await reader.readexactly(frame_length(header))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            except TimeoutError:
                self._silent = True
                return f"no sign of life for {patience:g} s"
            self._heard = time.monotonic()
            message = decode_worker(body)
            if isinstance(message, StartFailed):
                return message
            await self._take(message)

    async def _take(self, message: WorkerMessage) -> None:
        match message:
            case Ready():
                self._ready = message
                self.observer.worker_ready(message)
                self._make_room_for_all(message)
                await self._become(EngineState.READY, "")
            case Beat():
                self._rss = message.rss_bytes
                self.observer.beat(WORKER, message)
            case Opened() | Fragment() | Rejected() | Ended():
                if isinstance(message, Fragment):
                    self.observer.made(message)
                if session := self._sessions.get(message.session):
                    self._take_for(session, message)
            case StartFailed():
                raise AssertionError("handled by _listen")

    def _take_for(self, session: LocalSession, message: Opened | Fragment | Rejected | Ended) -> None:
        if isinstance(message, Opened):
            session.mime, session.init = message.mime, message.init
            if not session.opened.done():
                session.opened.set_result(None)
            return
        if isinstance(message, Ended):
            self._forget(session.id)
            if not session.opened.done():
                session.opened.set_exception(PafuError(message.code or "internal_error", message.message))
                return
        session.put(message)

    def _fail_sessions(self, code: str, message: str) -> None:
        for session in list(self._sessions.values()):
            ended = Ended(session=session.id, chunks=0, reason="failed", code=code, message=message)
            self._take_for(session, ended)

    async def _end_process(self) -> str:
        """Make sure that the worker is gone; how it ended, in words."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process = self._process
        if process is None:
            return "it could not be started"
        try:
            await asyncio.wait_for(process.wait(), LAST_WORD_WITHIN)
        except TimeoutError:
            self._kill()
        status = await process.wait()
        if self._state is not EngineState.STOPPED:
            self.observer.worker_lost(WORKER, "silent" if self._silent else "killed" if status < 0 else "exited")
        said = await self._last_words.line(LAST_WORD_WITHIN) if self._last_words else ""
        if status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}: {said}" if status and said else f"exit status {status}"

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _become(self, state: EngineState, message: str) -> None:
        if self._state is not EngineState.STOPPED:
            self._state, self._message = state, message
            self.observer.engine_state(state)
        async with self._changed:
            self._changed.notify_all()
