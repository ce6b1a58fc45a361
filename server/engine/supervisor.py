"""Supervises one worker process: starts it, reads its messages, restarts it, stops it.

Liveness means heartbeats from the worker's step loop, not a live pid. A worker that dies or falls silent is restarted
with growing delays; one that reports StartFailed is not. The owner handles the worker's sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from server.engine.worker_stderr import WorkerStderr
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
from server.process import module_command, signal_name
from server.states import WorkerState

log = logging.getLogger("pafu.engine")

WORKER_COMMAND = module_command("server.worker")
MAX_FAILURES = 5  # failed starts in a row before giving up
FIRST_DELAY, LONGEST_DELAY = 0.25, 10.0
EXIT_WITHIN = 1.0


class Owner(Protocol):
    """Receives a worker's messages and state changes, in order."""

    def heard(self, message: WorkerMessage) -> None:
        """A message from the worker; the first is Ready, StartFailed never arrives here."""

    def died(self, how: str | None) -> None:
        """The process has exited; ``how`` is one of server.telemetry.metrics.DEATHS, None after a requested stop."""

    def became(self, state: WorkerState) -> None: ...
    def lost(self, code: str, reason: str) -> None:
        """The process's sessions are lost, with this error code and reason."""


class WorkerSupervisor:
    """Runs one worker process after another until ``stop``."""

    def __init__(
        self, name: str, configure: Configure, command: Sequence[str], owner: Owner, load_within: float, silent: float
    ) -> None:
        """``name`` is for the log; ``load_within`` and ``silent``: timeouts in seconds before and after Ready."""
        self.state, self.message = WorkerState.STARTING, f"{name} is starting"
        self.ready: Ready | None = None
        self.restarts = 0
        self.command = tuple(command)
        self.name, self._configure, self._owner = name, configure, owner
        self._load_within, self._silent_within = load_within, silent
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: WorkerStderr | None = None
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
        """Seconds since the last message."""
        return time.monotonic() - self._heard

    def start(self) -> None:
        """Start the process and watch it; also after ``stop``."""
        self.state = WorkerState.STARTING
        self._become(WorkerState.STARTING, f"{self.name} is starting")
        self._task = asyncio.create_task(self._supervise_or_fail(), name=f"supervisor of {self.name}")

    async def stop(self, within: float, reason: str) -> None:
        """Shut the worker down; kill it after ``within`` seconds. May be called again."""
        self._become(WorkerState.STOPPED, reason)
        await self.send(Shutdown())
        polite = self.ready is not None and within > 0  # a worker that is still loading reads no messages
        if self._process is not None and polite:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within)
        self._kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._end_process()
        self.ready = None
        self._owner.lost("shutting_down", reason)  # which the cancelled task could not report

    async def send(self, message: Message) -> None:
        """Send a message to the worker; without effect if it is gone, which the owner reports to its sessions."""
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
            self._become(WorkerState.FAILED, "the supervisor failed; see the log")
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
            if given_up and not final:
                reason = (
                    f"{reason}; that was failure {failures} before it was ready (memory? see dmesg and pafu doctor)"
                )
            if given_up:
                self._become(WorkerState.FAILED, reason)
            else:
                self._become(WorkerState.RESTARTING, f"{self.name} is restarting ({reason})")
            self._owner.lost("worker_failed", f"the worker was lost ({reason})")
            if given_up:
                if self._served or not final:  # otherwise the server's start reports it
                    log.error(
                        "giving up on %s: %s; fix the cause and restart the server",
                        self.name,
                        reason,
                    )
                return
            self.restarts += 1
            log.warning("%s was lost (%s); restarting in %.2g s", self.name, reason, delay)
            await asyncio.sleep(delay)

    async def _one_life(self) -> tuple[bool, str, bool]:
        """Run one process until it ends; returns whether it was ever ready, why it ended, and whether to give up."""
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
                start_new_session=True,  # signals to the front's process group do not reach it
            )
        finally:
            theirs.close()
        assert self._process.stderr is not None
        self._stderr = WorkerStderr(self._process.stderr, self._configure.log_format == "json")
        reader, self._writer = await asyncio.open_connection(sock=ours)
        await self.send(self._configure)
        return reader

    async def _listen(self, reader: asyncio.StreamReader) -> str | StartFailed | None:
        """Forward messages until the worker exits (None), falls silent (the reason) or sends StartFailed."""
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
                return f"no message for {patience:g} s"
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
        """Wait for the process to exit, or kill it; returns how it ended."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process = self._process
        if process is None:
            return "it could not be started"
        try:
            await asyncio.wait_for(process.wait(), EXIT_WITHIN)
        except TimeoutError:
            self._kill()
        status = await process.wait()
        how = "silent" if self._fell_silent else "killed" if status < 0 else "exited"
        self._owner.died(None if self.state is WorkerState.STOPPED else how)
        said = await self._stderr.line(EXIT_WITHIN) if self._stderr else ""
        if status < 0:
            return f"killed by {signal_name(-status)}"
        return f"exit status {status}: {said}" if status and said else f"exit status {status}"

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _become(self, state: WorkerState, message: str) -> None:
        if self.state is not WorkerState.STOPPED:
            self.state, self.message = state, message
        self._owner.became(state)
