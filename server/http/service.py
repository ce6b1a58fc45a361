"""Runs the front: start-up, signals, graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from types import FrameType
from typing import Any

import uvicorn

from server.config import Settings, addresses, make_data_dir
from server.engine.admission import Capacity
from server.engine.interface import Engine
from server.http.app import Front, create_app, metrics_app
from server.http.backpressure import BackpressureProtocol
from server.http.connection_limit import ConnectionLimit, file_limit
from server.http.lag import watch_lag
from server.http.slow_headers import TimeoutProtocol
from server.ipc.messages import Ready
from server.states import EngineState, WorkerState
from server.telemetry.traces import Traces

log = logging.getLogger("pafu")

STOP_WITHIN = 5.0  # seconds for the worker to exit, after shutdown_timeout
LAST_WITHIN = 1.0  # of STOP_WITHIN: reserved for the last step
GIVE_BACK_WITHIN = 1.0  # seconds to release jobs after a second signal
SIGNAL_POLL = 0.05
SAME_STOP = 0.5  # seconds within which several signals are one stop, as systemd, shells and containers send it
ACCEPTED_AT_ONCE = 16  # connections per loop iteration; asyncio accepts up to the backlog
WAITING_CONNECTIONS = 1024  # the socket's real backlog
LIKE_ALL: dict[str, Any] = {  # uvicorn's settings of each port; Service starts and stops the engine, in order
    "lifespan": "off",
    "loop": "asyncio",
    "backlog": ACCEPTED_AT_ONCE,
    "log_config": None,
    "access_log": False,
    "server_header": False,
}
FRAME_MARGIN = 64 * 2**10  # so that a slightly too long session.start gets our error, not only a close code


class Service(uvicorn.Server):
    """Uvicorn with our order of start-up and shutdown."""

    def __init__(self, config: uvicorn.Config, front: Front, metrics: MetricsServer | None) -> None:
        super().__init__(config)
        self.front, self.metrics = front, metrics
        self._stopped_at = -math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open sockets (/readyz says 503), start the engine, then look for jobs."""
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(WAITING_CONNECTIONS)  # asyncio has just set it to ACCEPTED_AT_ONCE
        self.front.access.operator.prepare()
        await self.front.engine.start()
        self.front.jobs.start()
        self.front.gallery.start()
        lag = watch_lag(self.front.engine.observer.lag)
        self._watching = [asyncio.create_task(watch) for watch in (self.front.watch_keys(), lag)]
        gc.collect()
        gc.freeze()  # or every full collection would hold up the event loop for 50 ms to look at what never goes

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, notify viewers and release jobs, close sockets, stop the workers, in this order.

        A second signal skips all waiting except GIVE_BACK_WITHIN for releasing jobs.
        """
        for watch in self._watching:
            watch.cancel()
        until = time.monotonic() + self.front.settings.shutdown_timeout
        await self._unless_forced(self.front.drain())
        if self.force_exit:
            await self.front.jobs.give_back(GIVE_BACK_WITHIN)
        left = 0.0 if self.force_exit else until - time.monotonic()
        self.config.timeout_graceful_shutdown = max(1, int(left))  # for downloads
        await super().shutdown(sockets)
        left = until + STOP_WITHIN - LAST_WITHIN - time.monotonic()  # less if the earlier steps took long
        await self.front.engine.stop(0.0 if self.force_exit else max(LAST_WITHIN, left))
        await self.front.jobs.close()

    async def _unless_forced(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, but abandon it at the second signal."""
        task = asyncio.create_task(work, name="drain")
        while not (task.done() or self.force_exit):
            await asyncio.wait((task,), timeout=SIGNAL_POLL)  # a signal wakes no task
        task.cancel()
        (failure,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(failure, Exception):
            log.error("draining failed", exc_info=failure)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Like uvicorn's, but does not re-raise a handled signal, so that a graceful shutdown has exit status 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asked = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # keep ignoring SIGHUP under nohup
            asked.append(signal.SIGHUP)
        before = {name: signal.signal(name, self.handle_exit) for name in asked}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully at the first signal, immediately at a later SIGINT or SIGTERM."""
        now = time.monotonic()
        if not self.should_exit:
            self.should_exit, self._stopped_at = True, now
        elif sig != signal.SIGHUP and now - self._stopped_at >= SAME_STOP:
            self.force_exit = True


def build(settings: Settings, engine: Engine) -> Service:
    """The service for this engine, not running yet."""
    app = create_app(settings, engine)
    proxies = tuple(addresses.network(text) for text in settings.trusted_proxies)
    limit = ConnectionLimit(settings.max_connections_per_address, file_limit(), proxies, engine.observer)
    common = {"limit": limit, "count": engine.observer.error}
    config = uvicorn.Config(
        app,
        **LIKE_ALL,
        http=type("Http", (TimeoutProtocol,), {**common, "stall_seconds": settings.stall_timeout}),
        ws=type("Socket", (BackpressureProtocol,), common),
        ws_max_size=settings.max_start_bytes + FRAME_MARGIN,
        ws_per_message_deflate=False,  # no gain for H.264, and 64 KiB per connection
        ws_ping_interval=10.0,
        ws_ping_timeout=10.0,
    )
    metrics = None
    if settings.metrics_port is not None:
        apart = {**common, "callers": "metrics port: ", "stall_seconds": settings.stall_timeout}
        served = metrics_app(engine.observer, settings.access_log)
        http = type("MetricsHttp", (TimeoutProtocol,), apart)
        metrics = MetricsServer(uvicorn.Config(served, **LIKE_ALL, http=http, ws="none", timeout_graceful_shutdown=1))
    return Service(config, app.state.front, metrics)


class MetricsServer(uvicorn.Server):
    """Serves /metrics on a separate port while the service runs."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the service."""
        yield


@contextlib.asynccontextmanager
async def metrics_served(server: MetricsServer | None, sock: socket.socket | None) -> AsyncIterator[None]:
    """Serve /metrics on ``sock`` (if any) during the block."""
    if server is None or sock is None:
        yield
        return
    serving = asyncio.create_task(server.serve(sockets=[sock]), name="metrics")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


async def run(
    settings: Settings,
    engine: Engine,
    sock: socket.socket,
    say: Callable[[str], Any],
    metrics_sock: socket.socket | None = None,
    traces: Traces | None = None,
) -> str | None:
    """Serve until a signal; returns why the engine never became ready, or None. ``say`` prints progress.

    Raises ConfigError before anything is written.
    """
    engine.observer.traces = traces
    service = build(settings, engine)
    make_data_dir(settings.data_dir)
    service.config.app.openapi()  # type: ignore[union-attr]  # or the first caller would hold up the loop for 0.1 s
    watcher = asyncio.create_task(_watch(service, engine, say))
    async with metrics_served(service.metrics, metrics_sock):
        await service.serve(sockets=[sock])
    await engine.stop(0.0)  # after an early signal, uvicorn skips ``shutdown``
    if traces is not None:
        await asyncio.to_thread(traces.close)
    with contextlib.suppress(asyncio.CancelledError):
        if (failure := await watcher) is not None:
            return failure
    say(ended(service.front))
    return None


def ended(front: Front) -> str:
    """The final message: stopped, and what the next server continues."""
    kept = {"live session": front.kept_sessions, "job": front.kept_jobs}
    named = [f"{count} {name}{'s' * (count > 1)}" for name, count in kept.items() if count]
    return f"stopped; the next pafu serve will continue {' and '.join(named)}" if named else "stopped"


def room(capacity: Capacity) -> str:
    """The session limit and its cause."""
    if capacity.limited_by == "setting":
        return f"at most {capacity.sessions} sessions at once (PAFU_MAX_SESSIONS)"
    if capacity.sessions is None or capacity.chunk_seconds is None:
        return "one session at once (chunk time could not be measured)"
    return (
        f"at most {capacity.sessions} at once by {capacity.limited_by} (a chunk takes {capacity.chunk_seconds:.2f} s)"
    )


async def _watch(service: Service, engine: Engine, say: Callable[[str], Any]) -> str | None:
    """Report how each worker started; stop the service if all have failed."""
    telling = asyncio.create_task(_tell(service, engine, say), name="tell")
    await engine.settled()
    status = engine.status()
    if status.state is EngineState.FAILED:
        service.should_exit = True
        telling.cancel()
        return status.message
    await telling
    return None


async def _tell(service: Service, engine: Engine, say: Callable[[str], Any]) -> None:
    async for worker in engine.each_settled():
        several = len(engine.status().workers) > 1 or service.front.settings.engine != "local"
        which = f"worker {worker.worker} " if several else ""
        if worker.state is WorkerState.FAILED and several:
            say(f"{which}cannot start on {worker.device}; continuing without it: {worker.message}")
        elif worker.ready is not None:
            say(f"{which}ready: {service.front.spec.name} on {described(worker.ready)}; {room(worker.capacity)}")


def described(ready: Ready) -> str:
    """A worker's device, weights and start-up times."""
    took = f"loaded in {ready.load_seconds:.1f} s, first chunk in {ready.warm_up_seconds:.1f} s"
    return f"{ready.device} ({ready.weights}), {took}"
