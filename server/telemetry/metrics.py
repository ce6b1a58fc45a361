"""All Prometheus metrics in one table, from which docs, dashboard and alerts are generated.

The front process holds all metrics; workers send their figures as messages. Names follow Prometheus: prefix ``pafu_``,
base units in the name, ``_total`` for counters. Label values come from closed lists, so that no session, prompt or
caller can create a time series; other values are counted as ``other``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from cache.config import SERVED_POLICIES
from model.stream.chunk_stats import measured_in
from server.errors import ERRORS
from server.ipc.messages import ServedStats
from server.media.formats import VIDEO_FORMATS
from server.states import EngineState, WorkerState

OTHER = "other"
BY_CONSTRUCTION: tuple[str, ...] = ()  # no list: the code produces only few values, such as worker numbers and routes
STAGES = ("text", "denoise", "clean", "decode", "prune", "encode", "send", "total")
ENDINGS = ("complete", "stopped", "server_shutdown", "viewer_left", *ERRORS)
QUANTILES = ("0.1", "0.5", "0.9")
MEMORY_KINDS = ("allocated", "reserved", "peak", "free", "total")
DEATHS = ("killed", "exited", "silent")
PLACES = ("device", "disk")
ROLES = ("owner", "watcher")
JOB_STATES = ("queued", "in_progress", "completed", "failed")
MOST_CHILDREN = 64  # label combinations initialized to 0

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG_SECONDS = (1, 5, 10, 30, 60, 300, 900, 1800, 3600, 4 * 3600, 24 * 3600)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)


@dataclass(frozen=True)
class Metric:
    """One metric. ``labels`` maps each label to its allowed values; all metrics also have ``model_name``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    group: str
    help: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The unit in the name; "1" without one."""
        base = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes", "tokens", "ratio") if base.endswith("_" + unit)), "1")


METRICS: tuple[Metric, ...] = (
    Metric("pafu_sessions_active", "gauge", "sessions", "Sessions streaming to their owner."),
    Metric("pafu_sessions_waiting", "gauge", "sessions", "Sessions waiting for a worker."),
    Metric(
        "pafu_sessions_suspended",
        "gauge",
        "sessions",
        "Paused sessions and sessions without their owner: on the device, until others need the place, or on disk.",
        {"where": PLACES},
    ),
    Metric(
        "pafu_sessions_limit",
        "gauge",
        "sessions",
        "Maximum number of sessions at once: PAFU_MAX_SESSIONS, or as many as fit; see /health.",
    ),
    Metric("pafu_sessions_started_total", "counter", "sessions", "Sessions that got a place on a worker."),
    Metric(
        "pafu_sessions_finished_total",
        "counter",
        "sessions",
        "Ended sessions that had a place on a worker, by reason: a regular end, or the error code; expired: no viewer "
        "came back.",
        {"reason": ENDINGS},
    ),
    Metric(
        "pafu_session_rejections_total",
        "counter",
        "sessions",
        "Connections that ended before their session got a place, by reason.",
        {"reason": ENDINGS},
    ),
    Metric("pafu_session_resumes_total", "counter", "sessions", "Sessions resumed by their owner."),
    Metric(
        "pafu_session_journal_failures_total",
        "counter",
        "sessions",
        "Failed journal writes; until a write succeeds, a server crash loses the session.",
    ),
    Metric(
        "pafu_viewers",
        "gauge",
        "sessions",
        "Connections with an open session, by role: owner or watcher.",
        {"role": ROLES},
    ),
    Metric(
        "pafu_viewers_left_total",
        "counter",
        "sessions",
        "Ended connections that had an open session, by reason; the session may continue without them.",
        {"reason": ENDINGS},
    ),
    Metric(
        "pafu_session_seconds",
        "histogram",
        "sessions",
        "Duration of sessions, from start to end.",
        buckets=LONG_SECONDS,
    ),
    Metric(
        "pafu_time_to_first_chunk_seconds",
        "histogram",
        "latency",
        "Time from an accepted session.start until the first chunk was sent.",
        buckets=SECONDS,
    ),
    Metric(
        "pafu_prompt_switch_seconds",
        "histogram",
        "latency",
        "Time from queueing a change until the first chunk that shows it was sent.",
        buckets=SECONDS,
    ),
    Metric(
        "pafu_chunk_seconds",
        "histogram",
        "latency",
        "Time per chunk and stage; total is all stages except send.",
        {"stage": STAGES},
        SECONDS,
    ),
    Metric(
        "pafu_inter_chunk_seconds", "histogram", "playout", "Time between two chunks of a session.", buckets=SECONDS
    ),
    Metric(
        "pafu_real_time_factor",
        "histogram",
        "playout",
        "Playing time of a chunk divided by its generation time; below 1 the viewer has to wait.",
        buckets=RATIOS,
    ),
    Metric("pafu_chunks_total", "counter", "playout", "Chunks sent to viewers."),
    Metric("pafu_pictures_total", "counter", "playout", "Pictures sent to viewers."),
    Metric("pafu_media_seconds_total", "counter", "playout", "Seconds of video sent to viewers."),
    Metric("pafu_sent_bytes_total", "counter", "playout", "Encoded bytes sent to viewers.", {"format": VIDEO_FORMATS}),
    Metric("pafu_deadline_misses_total", "counter", "playout", "Chunks sent after the viewer had run out of media."),
    Metric(
        "pafu_viewer_starved_seconds_total",
        "counter",
        "playout",
        "Seconds in which viewers had nothing to play because the next chunk was late.",
    ),
    Metric(
        "pafu_viewer_stall_seconds_total",
        "counter",
        "playout",
        "Seconds in which finished chunks waited for viewers who did not read (waits above 1 s).",
    ),
    Metric("pafu_viewers_stalled", "gauge", "playout", "Viewers that have not read for more than 1 s."),
    Metric("pafu_kv_cache_bytes", "gauge", "cache", "Device memory used by the caches of all sessions, in bytes."),
    Metric(
        "pafu_kv_cache_reserved_bytes",
        "gauge",
        "cache",
        "Cache bytes reserved by admission for sessions and jobs on the device.",
    ),
    Metric(
        "pafu_kv_cache_limit_bytes",
        "gauge",
        "cache",
        "Limit on the bytes of all caches (PAFU_CACHE_ROOM_BYTES, or the memory that the workers found free).",
    ),
    Metric(
        "pafu_kv_cache_tokens",
        "gauge",
        "cache",
        "Cached tokens of all sessions, counted in each session's fullest layer.",
    ),
    Metric(
        "pafu_kv_cache_usage_ratio", "gauge", "cache", "Cached tokens divided by the tokens that the budgets allow."
    ),
    Metric(
        "pafu_kv_evicted_tokens_total",
        "counter",
        "cache",
        "Evicted tokens, counted in the layer that lost most: pruned by the policy, or freed at the end of a session.",
        {"reason": ("budget", "session_end"), "policy": SERVED_POLICIES},
    ),
    Metric(
        "pafu_kv_policy_fallbacks_total",
        "counter",
        "cache",
        "Sessions that fell back to a policy without scores because their scores were not finite.",
    ),
    Metric(
        "pafu_salience_score",
        "gauge",
        "cache",
        "Quantiles of the kept tokens' scores in the newest chunk, for policies with scores.",
        {"policy": SERVED_POLICIES, "share": QUANTILES},
    ),
    Metric(
        "pafu_device_memory_bytes",
        "gauge",
        "device",
        "Memory of a worker's GPU: allocated, reserved and peak by this worker, free and total on the device.",
        {"worker": BY_CONSTRUCTION, "kind": MEMORY_KINDS},
    ),
    Metric(
        "pafu_worker_memory_bytes",
        "gauge",
        "device",
        "Resident memory of a worker process.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_worker_beat_age_seconds",
        "gauge",
        "workers",
        "Time since the last heartbeat of a worker's step loop.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_worker_restarts_total",
        "counter",
        "workers",
        "Lost worker processes, by worker and cause.",
        {"worker": BY_CONSTRUCTION, "reason": DEATHS},
    ),
    Metric(
        "pafu_worker_state",
        "gauge",
        "workers",
        "1 for a worker's current state, 0 for the others; it accepts sessions only when ready.",
        {"worker": BY_CONSTRUCTION, "device": BY_CONSTRUCTION, "state": tuple(state.value for state in WorkerState)},
    ),
    Metric("pafu_worker_sessions", "gauge", "workers", "Sessions and jobs on a worker.", {"worker": BY_CONSTRUCTION}),
    Metric(
        "pafu_worker_sessions_limit",
        "gauge",
        "workers",
        "Maximum number of sessions and jobs on a worker at once.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_worker_cache_reserved_bytes",
        "gauge",
        "workers",
        "Cache bytes reserved by admission on a worker.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_worker_cache_limit_bytes",
        "gauge",
        "workers",
        "Limit on the bytes of all caches on a worker.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_worker_chunks_total", "counter", "workers", "Chunks generated by a worker.", {"worker": BY_CONSTRUCTION}
    ),
    Metric(
        "pafu_worker_busy_seconds_total",
        "counter",
        "workers",
        "Seconds in which a worker generated chunks; the rate is its utilization.",
        {"worker": BY_CONSTRUCTION},
    ),
    Metric(
        "pafu_engine_state",
        "gauge",
        "workers",
        "1 for the engine's current state, 0 for the others; sessions start only when it is ready.",
        {"state": tuple(state.value for state in EngineState)},
    ),
    Metric("pafu_worker_load_seconds", "gauge", "workers", "Time that the newest worker took to load the model."),
    Metric(
        "pafu_worker_warm_up_seconds", "gauge", "workers", "Time that the newest worker took for its warm-up chunk."
    ),
    Metric("pafu_jobs_store_up", "gauge", "jobs", "1 while the job store answers, 0 while it does not."),
    Metric(
        "pafu_data_free_bytes", "gauge", "jobs", "Free bytes on the disk of the data folder (jobs, sessions, videos)."
    ),
    Metric("pafu_jobs", "gauge", "jobs", "Unfinished jobs in the store, by state.", {"state": JOB_STATES[:2]}),
    Metric("pafu_jobs_finished_total", "counter", "jobs", "Finished jobs, by state.", {"state": JOB_STATES[2:]}),
    Metric("pafu_job_queue_age_seconds", "gauge", "jobs", "Waiting time of the oldest queued job."),
    Metric(
        "pafu_request_duration_seconds",
        "histogram",
        "http",
        "Duration of HTTP requests, by route template, method and status.",
        {
            "route": BY_CONSTRUCTION,
            "method": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
            "status": BY_CONSTRUCTION,
        },
        SECONDS,
    ),
    Metric(
        "pafu_front_lag_seconds",
        "histogram",
        "http",
        "Lag of the front's event loop, which delays everyone.",
        buckets=LAGS,
    ),
    Metric(
        "pafu_front_busy_seconds",
        "histogram",
        "http",
        "CPU time of the event loop's longest turn since the last look: the front's own part in lags.",
        buckets=LAGS,
    ),
    Metric("pafu_connections", "gauge", "http", "Open connections of all kinds."),
    Metric(
        "pafu_connections_refused_total", "counter", "http", "Connections closed at once because of a connection limit."
    ),
    Metric("pafu_errors_total", "counter", "http", "Errors reported to callers, by code.", {"code": tuple(ERRORS)}),
    Metric(
        "pafu_build_info",
        "gauge",
        "build",
        "Always 1; the labels give the versions.",
        {"version": BY_CONSTRUCTION, "python": BY_CONSTRUCTION, "torch": BY_CONSTRUCTION, "device": BY_CONSTRUCTION},
    ),
)

# Add chunk statistics that are declared as metrics but have no row above.
_measured = measured_in(ServedStats)
MEASURES = {field: measure for field, (measure, _) in _measured.items()}
METRICS += tuple(
    Metric(measure.metric, measure.kind, "playout", help, {"policy": SERVED_POLICIES})
    for measure, help in _measured.values()
    if measure.metric not in {metric.name for metric in METRICS}
)

BY_NAME = {metric.name: metric for metric in METRICS}
Collector = Counter | Gauge | Histogram


class Metrics:
    """The metric values of one front process; not thread-safe."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._registry = CollectorRegistry()
        self._collectors = {metric.name: _build(metric, self._registry) for metric in METRICS}
        for metric in METRICS:
            self._begin_at_zero(metric)
        ProcessCollector(registry=self._registry)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Increase a counter or change a gauge."""
        collector = self._child(name, labels)
        assert isinstance(collector, Counter | Gauge), name
        collector.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        collector = self._child(name, labels)
        assert isinstance(collector, Gauge), name
        collector.set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram."""
        collector = self._child(name, labels)
        assert isinstance(collector, Histogram), name
        collector.observe(value)

    def drop(self, name: str, **labels: str) -> None:
        """Remove the series with these labels."""
        wanted = {"model_name": self._model_name, **labels}
        self._collectors[name].remove_by_labels(wanted)

    def clear(self, name: str) -> None:
        """Remove all series of a metric."""
        self._collectors[name].clear()

    def read(self, name: str, **labels: str) -> float:
        """The value of one sample as scraped (also a histogram's ``_count`` or ``_sum``); 0 if there is none."""
        return self._registry.get_sample_value(name, {"model_name": self._model_name, **labels}) or 0.0

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scrape."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def _child(self, name: str, labels: dict[str, str]) -> Collector:
        metric = BY_NAME[name]
        if labels.keys() != metric.labels.keys():
            raise ValueError(f"{name} has the labels {sorted(metric.labels)}, got {sorted(labels)}")
        known = {label: bounded(value, metric.labels[label]) for label, value in labels.items()}
        child: Collector = self._collectors[name].labels(model_name=self._model_name, **known)
        return child

    def _begin_at_zero(self, metric: Metric) -> None:
        """Initialize to 0, so that alerts see the first event as an increase."""
        values = list(metric.labels.values())
        if metric.kind == "gauge" and values or not all(values):
            return
        combinations = list(itertools.product(*values))
        for combination in combinations[:MOST_CHILDREN]:
            self._child(metric.name, dict(zip(metric.labels, combination, strict=True)))


def bounded(value: str, known: Iterable[str]) -> str:
    """The value, or ``other`` if ``known`` is not empty and lacks it."""
    listed = tuple(known)
    return value if not listed or value in listed else OTHER


def _build(metric: Metric, registry: CollectorRegistry) -> Collector:
    names = ("model_name", *metric.labels)
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, names, registry=registry, buckets=metric.buckets)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, names, registry=registry)
