"""Keeps one worker process alive: starts it, listens to it, replaces it, ends it.

Liveness is a heartbeat from the worker's step loop, not its pid. A worker that dies or falls silent is replaced with
a growing delay; one that says that it can never start is not started again. Whom it serves is its owner's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from server.engine.last_words import LastWords
from server.ipc.messages import (
    HEADER,
    Configure,
    Message,
    MessageError,
    Ready,
    Shutdown,
    StartFailed,
    WorkerMessage,
    decode_worker,
    frame,
    frame_length,
)
from server.process import module_command
from server.states import WorkerState

log = logging.getLogger("pafu.engine")

WORKER_COMMAND = module_command("server.worker")
MAX_FAILURES = 5  # deaths in a row, none of them after becoming ready
FIRST_DELAY, LONGEST_DELAY = 0.25, 10.0
LAST_WORD_WITHIN = 1.0


class Owner(Protocol):
    """Who is told, in the order of the calls, what happens to a worker."""

    def heard(self, message: WorkerMessage) -> None:
        """A message, never StartFailed; the first is Ready."""

    def died(self, how: str | None) -> None:
        """The process is gone: one of server.telemetry.metrics.DEATHS, None when it was asked to."""

    def became(self, state: WorkerState) -> None: ...
    def lost(self, code: str, reason: str) -> None:
        """What the process held is lost: the code and the words for its sessions."""


class WorkerSupervisor:
    """One worker process after the other, until it is stopped."""

    def __init__(
        self, name: str, configure: Configure, command: Sequence[str], owner: Owner, load_within: float, silent: float
    ) -> None:
        """``name`` as the log calls it; ``load_within`` and ``silent``: seconds of patience before and after Ready."""
        self.state, self.message = WorkerState.STARTING, f"{name} is starting"
        self.ready: Ready | None = None
        self.restarts = 0
        self.command = tuple(command)
        self.name, self._configure, self._owner = name, configure, owner
        self._load_within, self._silent_within = load_within, silent
        self._process: asyncio.subprocess.Process | None = None
        self._last_words: LastWords | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        self._fell_silent = self._served = False

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def silent_seconds(self) -> float:
        """Since the last sign of life."""
        return time.monotonic() - self._heard

    def start(self) -> None:
        """Start the process and watch it; also after ``stop``."""
        self.state = WorkerState.STARTING
        self._become(WorkerState.STARTING, f"{self.name} is starting")
        self._task = asyncio.create_task(self._supervise_or_fail(), name=f"supervisor of {self.name}")

    async def stop(self, within: float, reason: str) -> None:
        """Ask the worker to go, wait a little, then insist. May be called again."""
        self._become(WorkerState.STOPPED, reason)
        await self.send(Shutdown())
        polite = self.ready is not None and within > 0  # a worker that still loads hears nothing
        if self._process is not None and polite:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within)
        self._kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end_process()
        self.ready = None
        self._owner.lost("shutting_down", reason)  # what the cancelled task did not get to tell

    async def send(self, message: Message) -> None:
        """Write to the worker; a worker that is gone hears nothing, its sessions learn it from the owner."""
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(frame(message))
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def _supervise_or_fail(self) -> None:
        try:
            await self._supervise()
        except Exception:
            log.exception("the supervisor of %s failed", self.name)
            self._become(WorkerState.FAILED, "the supervisor failed; its error is in the log")
            self._owner.lost("internal_error", self.message)

    async def _supervise(self) -> None:
        failures, delay = 0, FIRST_DELAY
        while True:
            was_ready, reason, final = await self._one_life()
            if self.state is WorkerState.STOPPED:
                self._owner.lost("shutting_down", self.message)
                return
            failures, delay = (0, FIRST_DELAY) if was_ready else (failures + 1, min(2 * delay, LONGEST_DELAY))
            given_up = final or failures >= MAX_FAILURES
            if given_up:
                self._become(WorkerState.FAILED, reason)
            else:
                self._become(WorkerState.RESTARTING, f"{self.name} is restarting ({reason})")
            self._owner.lost("worker_failed", f"the worker was lost ({reason})")
            if given_up:
                if self._served or not final:  # what ends a start is told by the start
                    log.error(
                        "no worker will be started any more in place of %s: %s; restart the server when its cause is "
                        "gone",
                        self.name,
                        reason,
                    )
                return
            self.restarts += 1
            log.warning("%s was lost (%s); starting another in %.2g s", self.name, reason, delay)
            await asyncio.sleep(delay)

    async def _one_life(self) -> tuple[bool, str, bool]:
        """Run one worker to its end: whether it was ever ready, why it ended, and whether that is final."""
        self.ready, self._process, self._fell_silent, failure = None, None, False, None
        try:
            reader = await self._spawn()
            failure = await self._listen(reader)
        except (MessageError, OSError) as error:
            failure = str(error)
        status = await self._end_process()
        if isinstance(failure, StartFailed):
            return False, failure.message, True
        return self.ready is not None, failure or status, False

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # what asks a group for its end is the front's to answer
            )
        finally:
            theirs.close()
        assert self._process.stderr is not None
        self._last_words = LastWords(self._process.stderr, self._configure.log_format == "json")
        reader, self._writer = await asyncio.open_connection(sock=ours)
        await self.send(self._configure)
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> str | StartFailed | None:
        """Hand on the worker's messages until it ends (None), falls silent (why) or says that it cannot start."""
        while True:
            patience = self._silent_within if self.ready else self._load_within
            try:
                async with asyncio.timeout(patience):
                    header = await reader.readexactly(HEADER.size)
                    body = await reader.readexactly(frame_length(header))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            except TimeoutError:
                self._fell_silent = True
                return f"no sign of life for {patience:g} s"
            self._heard = time.monotonic()
            message = decode_worker(body)
            if isinstance(message, StartFailed):
                return message
            if isinstance(message, Ready):
                self.ready, self._served = message, True
            self._owner.heard(message)
            if isinstance(message, Ready):
                self._become(WorkerState.READY, "")

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
        how = "silent" if self._fell_silent else "killed" if status < 0 else "exited"
        self._owner.died(None if self.state is WorkerState.STOPPED else how)
        said = await self._last_words.line(LAST_WORD_WITHIN) if self._last_words else ""
        if status < 0:
            return signal.Signals(-status).name
        return f"exit status {status}: {said}" if status and said else f"exit status {status}"

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _become(self, state: WorkerState, message: str) -> None:
        if self.state is not WorkerState.STOPPED:
            self.state, self.message = state, message
        self._owner.became(state)
