"""Turns events of the front into metrics, with one call per event.

The engine calls ``Observer``, a session ``SessionMetrics``, a connection ``ViewerMetrics``; ``scrape`` answers
Prometheus. Nothing here blocks or sees a prompt.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from model.spec import ModelSpec
from server import __version__
from server.errors import ERRORS
from server.ipc.messages import Beat, Fragment, Ready
from server.states import EngineState, WorkerState
from server.telemetry.metrics import DEATHS, MEASURES, PLACES, ROLES, Metrics
from server.telemetry.traces import SessionTrace, Traces, trace_id_of

STALL_AFTER = 1.0  # seconds; a shorter wait for a viewer's connection is no stall
Clock = Callable[[], float]
NO_HEADERS: Mapping[str, str] = {}


class Observer:
    """Owns the metrics of one front."""

    def __init__(self, spec: ModelSpec, clock: Clock = time.monotonic) -> None:
        self.spec = spec
        self.metrics = Metrics(spec.name)
        self.clock = clock
        self.traces: Traces | None = None  # set if traces are on
        self.sources: list[Callable[[], Awaitable[None]]] = []  # gauge sources, polled before every scrape
        self._stalls: set[Stall] = set()
        self._beats: dict[str, tuple[float, Beat]] = {}
        self._ready: dict[str, Ready] = {}  # by worker

    async def gather(self) -> None:
        """Poll the registered gauge sources."""
        for source in self.sources:
            await source()

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for Prometheus, with current stalls counted up to now."""
        now = self.clock()
        stalled = [stall for stall in self._stalls if stall.count(now)]
        self.metrics.set("pafu_viewers_stalled", len(stalled))
        for worker, (at, _) in self._beats.items():
            self.metrics.set("pafu_worker_beat_age_seconds", now - at, worker=worker)
        return self.metrics.render(accept)

    def session(self) -> SessionMetrics:
        """Metrics for a new session."""
        return SessionMetrics(self)

    def viewer(self, request_id: str = "", headers: Mapping[str, str] = NO_HEADERS) -> ViewerMetrics:
        """Metrics for a new connection; the arguments are for traces."""
        return ViewerMetrics(self, request_id, headers)

    # ---- from the engine

    def engine_state(self, current: EngineState) -> None:
        for state in EngineState:
            self.metrics.set("pafu_engine_state", float(state is current), state=state.value)

    def worker_state(self, worker: str, device: str, current: WorkerState) -> None:
        """A worker's state. Counters of a new worker start at 0, so that alerts see its first loss."""
        for state in WorkerState:
            labels = {"worker": worker, "device": device, "state": state.value}
            self.metrics.set("pafu_worker_state", float(state is current), **labels)
        for how in DEATHS:
            self.metrics.add("pafu_worker_restarts_total", 0, worker=worker, reason=how)

    def worker_ready(self, worker: str, ready: Ready) -> None:
        """A worker has loaded its model."""
        self._ready[worker] = ready
        self.metrics.set("pafu_worker_load_seconds", ready.load_seconds)
        self.metrics.set("pafu_worker_warm_up_seconds", ready.warm_up_seconds)
        self.metrics.set("pafu_worker_cache_limit_bytes", ready.cache_room_bytes, worker=worker)
        self.metrics.clear("pafu_build_info")
        versions = {"version": __version__, "python": platform.python_version()}
        for each in self._ready.values():
            torch = each.versions.get("torch", "none")
            self.metrics.set("pafu_build_info", 1, **versions, torch=torch, device=each.device)
        self._sum_caches()

    def worker_places(self, worker: str, sessions: int, most: int, reserved_bytes: int) -> None:
        """A worker's current sessions, their limit and reserved memory."""
        self.metrics.set("pafu_worker_sessions", sessions, worker=worker)
        self.metrics.set("pafu_worker_sessions_limit", most, worker=worker)
        self.metrics.set("pafu_worker_cache_reserved_bytes", reserved_bytes, worker=worker)

    def sessions_limit(self, most: int) -> None:
        """The session limit."""
        self.metrics.set("pafu_sessions_limit", most)

    def beat(self, worker: str, beat: Beat) -> None:
        """A worker's heartbeat, with its memory and its caches."""
        self._beats[worker] = (self.clock(), beat)
        self.metrics.set("pafu_worker_memory_bytes", beat.rss_bytes, worker=worker)
        for kind, size in beat.device_bytes.items():
            self.metrics.set("pafu_device_memory_bytes", size, worker=worker, kind=kind)
        self._sum_caches()

    def worker_lost(self, worker: str, how: str) -> None:
        """A worker was lost; ``how`` is one of metrics.DEATHS."""
        self.metrics.add("pafu_worker_restarts_total", worker=worker, reason=how)
        self.worker_gone(worker)

    def worker_gone(self, worker: str) -> None:
        """A worker's process has ended: drop its gauges."""
        if self._ready.pop(worker, None) is not None:
            self.metrics.drop("pafu_worker_cache_limit_bytes", worker=worker)
        beat = self._beats.pop(worker, (0.0, None))[1]
        if beat is not None:
            self.metrics.drop("pafu_worker_memory_bytes", worker=worker)
            self.metrics.drop("pafu_worker_beat_age_seconds", worker=worker)
            for kind in beat.device_bytes:
                self.metrics.drop("pafu_device_memory_bytes", worker=worker, kind=kind)
        self._sum_caches()

    def made(self, worker: str, fragment: Fragment) -> None:
        """A worker finished a chunk: record its cost and cache statistics."""
        stats = fragment.stats
        self.metrics.add("pafu_worker_chunks_total", worker=worker)
        self.metrics.add("pafu_worker_busy_seconds_total", stats.chunk_seconds, worker=worker)
        for stage, seconds in stats.seconds.items():
            self.metrics.observe("pafu_chunk_seconds", seconds, stage=stage)
        if stats.chunk_seconds > 0:
            self.metrics.observe("pafu_real_time_factor", self.media_seconds(fragment) / stats.chunk_seconds)
        for quantile, score in stats.salience_quantiles.items():
            self.metrics.set("pafu_salience_score", score, policy=stats.cache_policy, share=quantile)
        for field, measure in MEASURES.items():
            record = self.metrics.add if measure.kind == "counter" else self.metrics.set
            record(measure.metric, getattr(stats, field), policy=stats.cache_policy, **dict(measure.labels))

    def media_seconds(self, fragment: Fragment) -> float:
        """The chunk's playing time in seconds."""
        return fragment.pictures / self.spec.fps

    def _sum_caches(self) -> None:
        beats = [beat for _, beat in self._beats.values()]
        self.metrics.set("pafu_kv_cache_limit_bytes", sum(ready.cache_room_bytes for ready in self._ready.values()))
        tokens, budget = sum(beat.cache_tokens for beat in beats), sum(beat.cache_budget for beat in beats)
        self.metrics.set("pafu_kv_cache_bytes", sum(beat.cache_bytes for beat in beats))
        self.metrics.set("pafu_kv_cache_tokens", tokens)
        self.metrics.set("pafu_kv_cache_usage_ratio", tokens / budget if budget else 0.0)

    # ---- from the sessions

    def sessions(
        self, active: int, waiting: int, suspended: Mapping[str, int], viewers: Mapping[str, int], reserved_bytes: int
    ) -> None:
        """Current counts: sessions, with suspended ones by metrics.PLACES, and viewers by metrics.ROLES."""
        self.metrics.set("pafu_sessions_active", active)
        self.metrics.set("pafu_sessions_waiting", waiting)
        for where in PLACES:
            self.metrics.set("pafu_sessions_suspended", suspended.get(where, 0), where=where)
        for role in ROLES:
            self.metrics.set("pafu_viewers", viewers.get(role, 0), role=role)
        self.metrics.set("pafu_kv_cache_reserved_bytes", reserved_bytes)

    def journal_failed(self) -> None:
        """A journal write failed."""
        self.metrics.add("pafu_session_journal_failures_total")

    # ---- from the jobs

    def jobs(self, unfinished: Mapping[str, int], queue_age: float, writable: bool = True) -> None:
        """Unfinished jobs by state, and the waiting time of the oldest in seconds."""
        self.metrics.set("pafu_jobs_store_up", int(writable))
        for state, count in unfinished.items():
            self.metrics.set("pafu_jobs", count, state=state)
        self.metrics.set("pafu_job_queue_age_seconds", queue_age)

    def jobs_unknown(self) -> None:
        """The store does not answer: drop the gauges rather than show old values."""
        self.metrics.set("pafu_jobs_store_up", 0)
        self.metrics.clear("pafu_jobs")
        self.metrics.clear("pafu_job_queue_age_seconds")

    def data_free(self, free: int) -> None:
        """Free bytes on the data folder's disk."""
        self.metrics.set("pafu_data_free_bytes", free)

    def job_over(self, state: str) -> None:
        """This front completed or failed a job."""
        self.metrics.add("pafu_jobs_finished_total", state=state)

    # ---- from the routes

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request was answered; ``route`` is the template, never the path."""
        labels = {"route": route, "method": method, "status": str(status)}
        self.metrics.observe("pafu_request_duration_seconds", seconds, **labels)

    def lag(self, seconds: float, busy: float) -> None:
        """The event loop was this late; its longest turn took ``busy`` seconds of CPU time."""
        self.metrics.observe("pafu_front_lag_seconds", seconds)
        self.metrics.observe("pafu_front_busy_seconds", busy)

    def connections(self, number: int) -> None:
        self.metrics.set("pafu_connections", number)

    def connection_refused(self) -> None:
        self.metrics.add("pafu_connections_refused_total")

    def error(self, code: str) -> None:
        """A caller got an error with this code."""
        self.metrics.add("pafu_errors_total", code=code)

    @contextmanager
    def stall_watch(self) -> Iterator[Stall]:
        """Time the block as a wait for a viewer; scrapes include waits in progress."""
        stall = Stall(self.metrics, self.clock())
        self._stalls.add(stall)
        try:
            yield stall
        finally:
            self._stalls.discard(stall)
            stall.count(self.clock())


class Stall:
    """One wait for a viewer's connection, which counts as a stall after STALL_AFTER."""

    def __init__(self, metrics: Metrics, began: float) -> None:
        self._metrics = metrics
        self._counted = began
        self._long_from = began + STALL_AFTER

    def count(self, now: float) -> bool:
        """Count the time since the last call; whether this is a stall."""
        if now < self._long_from:
            return False
        self._metrics.add("pafu_viewer_stall_seconds_total", now - self._counted)
        self._counted = now
        return True


class Continuity:
    """Tracks when a real-time viewer runs out of media. Times are seconds of any monotonic clock.

    Reported playheads are trusted. A playhead that stops before the end of the media means a pause, not starvation.
    """

    def __init__(self) -> None:
        self._sent = 0.0
        self._position: float | None = None
        self._ends: float | None = None  # when the sent media will have been played; None: nothing sent, or paused
        self._left = 0.0  # seconds of unplayed media at the pause

    def sent(self, media: float, now: float) -> float:
        """A chunk was sent; returns how many seconds the viewer had nothing to play before it."""
        paused = self._ends is None and self._sent > 0
        starved = max(0.0, now - self._ends) if self._ends is not None else 0.0
        self._sent += media
        if not paused:
            self._ends = max(now, self._ends or now) + media
        return starved

    def reported(self, position: float, now: float) -> None:
        """The viewer reports its playhead."""
        left = self._sent - position
        moves = self._position is None or position > self._position
        if moves and left > 0:
            self._ends = now + left
        elif not moves and left > 0:
            self._ends = None
        self._position = position

    def paused(self, paused: bool, now: float) -> None:
        """The viewer pauses, or resumes with its unplayed media."""
        if paused and self._ends is not None:
            self._left, self._ends = max(0.0, self._ends - now), None
        elif not paused and self._ends is None and self._sent > 0:
            self._ends = now + self._left


class SessionMetrics:
    """The metrics of one session, independent of its viewers."""

    def __init__(self, observer: Observer) -> None:
        self._metrics, self._clock = observer.metrics, observer.clock
        self._began = observer.clock()
        self._placed = False

    def placed(self) -> None:
        """A worker has opened the session; only the first call counts."""
        if not self._placed:
            self._placed = True
            self._metrics.add("pafu_sessions_started_total")

    def over(self, reason: str, newest: Fragment | None) -> None:
        """The session ended after its ``newest`` chunk; ``reason`` is one of metrics.ENDINGS."""
        if not self._placed:
            return
        self._metrics.add("pafu_sessions_finished_total", reason=reason)
        self._metrics.observe("pafu_session_seconds", self._clock() - self._began)
        if newest is not None:
            freed = {"reason": "session_end", "policy": newest.stats.cache_policy}
            self._metrics.add("pafu_kv_evicted_tokens_total", newest.stats.cache_tokens, **freed)


class ViewerMetrics:
    """The metrics of one connection."""

    def __init__(self, observer: Observer, request_id: str, headers: Mapping[str, str]) -> None:
        self._observer = observer
        self._request_id = request_id
        self._headers = headers
        self.trace_id = trace_id_of(headers.get("traceparent", ""))  # empty without a trace
        self._trace: SessionTrace | None = None
        self._metrics = observer.metrics
        self._stage = ""
        self._begins = self._owner = True
        self._asked = 0.0
        self._last_sent: float | None = None
        self._changes: dict[str, float] = {}
        self._continuity = Continuity()
        self._fell_back = False

    def asked(self, session_id: str = "", begins: bool = True, owner: bool = True) -> None:
        """The first message was accepted: the viewer starts (``begins``), resumes or watches a session."""
        self._asked = self._observer.clock()
        self._begins, self._owner = begins, owner
        if self._observer.traces is not None:
            ids = {"session_id": session_id, "request_id": self._request_id}
            self._trace = self._observer.traces.session(ids, self._headers, self._observer.spec.name)
            self.trace_id = trace_id_of(self._trace.traceparent)

    def opened(self) -> None:
        """The viewer's session is open on a worker."""
        self._stage = "active"
        if self._owner and not self._begins:
            self._metrics.add("pafu_session_resumes_total")

    def over(self, reason: str) -> None:
        """The connection ended; ``reason`` is one of metrics.ENDINGS. Only the first call counts."""
        if self._stage == "over":
            return
        was_there, self._stage = self._stage == "active", "over"
        self._metrics.add("pafu_viewers_left_total" if was_there else "pafu_session_rejections_total", reason=reason)
        if self._trace is not None:
            self._trace.over(reason, failed=reason in ERRORS)

    def failed(self, code: str) -> None:
        """The connection ended with an error."""
        self.erred(code)
        self.over(code)

    def erred(self, code: str) -> None:
        """The viewer got an error."""
        self._observer.error(code)

    @contextmanager
    def sending(self, fragment: Fragment, size: int, format: str = "m4s") -> Iterator[None]:
        """Measure the sending of a chunk of ``size`` bytes; nothing is counted if the block raises."""
        clock = self._observer.clock
        began = clock()
        self._take_cache(fragment)
        with self._observer.stall_watch():
            yield
        now = clock()
        self._metrics.observe("pafu_chunk_seconds", now - began, stage="send")
        self._metrics.add("pafu_chunks_total")
        self._metrics.add("pafu_pictures_total", fragment.pictures)
        self._metrics.add("pafu_media_seconds_total", self._observer.media_seconds(fragment))
        self._metrics.add("pafu_sent_bytes_total", size, format=format)
        self._take_gap(fragment, began, now)
        if self._trace is not None:
            self._trace.sent(fragment, now - began)
        for event_id in fragment.started:
            if (queued := self._changes.pop(event_id, None)) is not None:
                self._metrics.observe("pafu_prompt_switch_seconds", now - queued)

    def changed(self, event_id: str) -> None:
        """A change was queued."""
        self._changes[event_id] = self._observer.clock()

    def refused(self, event_id: str) -> None:
        """The model refused the change."""
        self._changes.pop(event_id, None)

    def playhead(self, position: float) -> None:
        """The viewer reports its playhead, in media seconds."""
        self._continuity.reported(position, self._observer.clock())

    def paused(self, paused: bool) -> None:
        """The viewer pauses or resumes the stream."""
        self._continuity.paused(paused, self._observer.clock())

    def _take_cache(self, fragment: Fragment) -> None:
        if fragment.stats.cache_fell_back and not self._fell_back:
            self._fell_back = True
            self._metrics.add("pafu_kv_policy_fallbacks_total")

    def _take_gap(self, fragment: Fragment, began: float, now: float) -> None:
        """Record gap and starvation, measured by when the chunk was ready, so that slow readers do not count."""
        if self._last_sent is None:
            if self._begins:
                self._metrics.observe("pafu_time_to_first_chunk_seconds", now - self._asked)
        else:
            self._metrics.observe("pafu_inter_chunk_seconds", now - self._last_sent)
        self._last_sent = now
        starved = self._continuity.sent(self._observer.media_seconds(fragment), began)
        if starved > 0 and self._owner:  # watchers do not pace the stream
            self._metrics.add("pafu_deadline_misses_total")
            self._metrics.add("pafu_viewer_starved_seconds_total", starved)
