"""Recording rules and alerts. Generation checks the metric names against server/telemetry/metrics.py.

Annotations are fixed texts, since alerts are always shown with their value. Each alert has a runbook section of the
same name in docs/operations.md and a promtool unit test in tests/deploy/test_rules.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

# Base of runbook links; set RUNBOOKS=https://wiki.example.org/pafu when generating to make them absolute.
RUNBOOK = os.environ.get("RUNBOOKS", "docs/operations.md") + "#"
PROBED = 'route!~"/healthz|/readyz|/health|/metrics"'  # without probes and scrapes, which are not callers
BY_MODEL = "sum by (model_name)"
FAILED = 'reason!~"complete|stopped|expired|server_shutdown|shutting_down"'


@dataclass(frozen=True)
class Recording:
    """A recording rule, named ``pafu:what:how``."""

    name: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """Fires when ``expr`` holds for ``lasting``. Severity: page (act now) or ticket (act today)."""

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str


def quantile(share: float, metric: str, *by: str, window: str = "5m") -> str:
    """PromQL for a histogram's quantile, by model and the given labels."""
    labels = ", ".join(("model_name", *by, "le"))
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket[{window}])))"


def share(part: str, whole: str) -> str:
    """PromQL for one rate divided by another: 0 if the part never happened, no value while the whole is 0."""
    of = f"{BY_MODEL} (rate({whole}[5m]))"
    return f"({BY_MODEL} (rate({part}[5m])) or 0 * {of}) / ({of} > 0)"


RECORDINGS = (
    Recording("pafu:time_to_first_chunk_seconds:p95", quantile(0.95, "pafu_time_to_first_chunk_seconds")),
    Recording("pafu:chunk_seconds:p95", quantile(0.95, "pafu_chunk_seconds", "stage")),
    Recording("pafu:inter_chunk_seconds:p95", quantile(0.95, "pafu_inter_chunk_seconds")),
    Recording("pafu:real_time_factor:p10", quantile(0.1, "pafu_real_time_factor")),
    Recording("pafu:deadline_misses:share", share("pafu_deadline_misses_total", "pafu_chunks_total")),
    Recording(
        "pafu:session_failures:share",
        share(f"pafu_sessions_finished_total{{{FAILED}}}", "pafu_sessions_finished_total"),
    ),
    Recording(
        "pafu:server_errors:share",
        share(
            f'pafu_request_duration_seconds_count{{status=~"5..", {PROBED}}}',
            f"pafu_request_duration_seconds_count{{{PROBED}}}",
        ),
    ),
)

ALERTS = (
    Alert("PafuDown", 'up{job="pafu"} == 0', "1m", "page", "Prometheus cannot scrape the server."),
    Alert(
        "PafuEngineFailed",
        'pafu_engine_state{state="failed"} == 1',
        "0m",
        "page",
        "All workers have failed; no session can start.",
    ),
    Alert(
        "PafuNotReady",
        'pafu_engine_state{state=~"starting|restarting"} == 1',
        "10m",
        "page",
        "No worker has become ready for 10 minutes.",
    ),
    Alert(
        "PafuWorkerFailed",
        'pafu_worker_state{state="failed"} == 1',
        "0m",
        "ticket",
        "A worker has failed; the server continues without its device.",
    ),
    Alert(
        "PafuWorkerNotReady",
        'pafu_worker_state{state=~"starting|restarting"} == 1',
        "15m",
        "ticket",
        "A worker has not become ready for 15 minutes.",
    ),
    Alert(
        "PafuDrainStuck",
        'pafu_worker_state{state="draining"} == 1',
        "1h",
        "ticket",
        "A worker has been draining for an hour: the others have no room for its sessions.",
    ),
    Alert(
        "PafuWorkerRestarts",
        "sum by (model_name, worker) (increase(pafu_worker_restarts_total[15m])) > 2",
        "0m",
        "ticket",
        "A worker was lost more than twice within 15 minutes.",
    ),
    Alert(
        "PafuWorkerSilent",
        "pafu_worker_beat_age_seconds > 15",
        "30s",
        "ticket",
        "A worker's step loop sends no heartbeat.",
    ),
    Alert(
        "PafuFirstChunkSlow",
        "pafu:time_to_first_chunk_seconds:p95 > 3",
        "10m",
        "ticket",
        "One viewer in twenty waits more than 3 s for the first chunk.",
    ),
    Alert(
        "PafuPlayoutGaps",
        "pafu:deadline_misses:share > 0.05",
        "5m",
        "page",
        "More than 5 % of chunks reach viewers who have already run out of video.",
    ),
    Alert(
        "PafuSlowerThanRealTime",
        "pafu:real_time_factor:p10 < 1",
        "10m",
        "ticket",
        "One chunk in ten takes longer to generate than to play.",
    ),
    Alert(
        "PafuFull",
        "pafu_sessions_active / pafu_sessions_limit >= 0.95",
        "15m",
        "ticket",
        "Nearly all session places are in use.",
    ),
    Alert(
        "PafuSessionsRejected",
        f'{BY_MODEL} (increase(pafu_session_rejections_total{{reason=~"session_rejected|not_ready"}}[10m])) > 5',
        "0m",
        "ticket",
        "Viewers are rejected because no place is free.",
    ),
    Alert(
        "PafuSessionsFail",
        "pafu:session_failures:share > 0.05",
        "10m",
        "page",
        "More than 5 % of all sessions end with an error.",
    ),
    Alert(
        "PafuViewersStalled",
        f"{BY_MODEL} (pafu_viewers_stalled) / ({BY_MODEL} (pafu_viewers) > 0) > 0.5",
        "5m",
        "ticket",
        "More than half of the viewers do not read.",
    ),
    Alert(
        "PafuDeviceMemoryLow",
        'pafu_device_memory_bytes{kind="free"} / ignoring (kind) pafu_device_memory_bytes{kind="total"} < 0.03',
        "5m",
        "ticket",
        "A GPU has less than 3 % of its memory left.",
    ),
    Alert(
        "PafuWorkerMemoryGrows",
        "delta(pafu_worker_memory_bytes[2h]) > 1e9",
        "30m",
        "ticket",
        "A worker's resident memory grew by more than 1 GB within 2 hours.",
    ),
    Alert(
        "PafuScoresNotFinite",
        f"{BY_MODEL} (increase(pafu_kv_policy_fallbacks_total[15m])) > 0",
        "0m",
        "ticket",
        "Token scores were not finite; sessions fell back to a policy without scores.",
    ),
    Alert(
        "PafuServerErrors",
        "pafu:server_errors:share > 0.05",
        "5m",
        "page",
        "More than 5 % of all HTTP requests fail with a 5xx status.",
    ),
    Alert("PafuJobsWait", "pafu_job_queue_age_seconds > 900", "5m", "ticket", "A job has waited for 15 minutes."),
    Alert(
        "PafuJobsFail",
        f'{BY_MODEL} (increase(pafu_jobs_finished_total{{state="failed"}}[30m])) > 3',
        "0m",
        "ticket",
        "More than three jobs failed within 30 minutes.",
    ),
    Alert("PafuStoreDown", "pafu_jobs_store_up == 0", "2m", "page", "The job store does not answer."),
    Alert(
        "PafuDiskLow",
        "pafu_data_free_bytes < 2147483648",
        "5m",
        "ticket",
        "The data folder's disk has less than 2 GiB free.",
    ),
    Alert(
        "PafuSessionsNotKept",
        f"{BY_MODEL} (increase(pafu_session_journal_failures_total[10m])) > 0",
        "0m",
        "ticket",
        "Session journals cannot be written; a server crash would lose the sessions.",
    ),
    Alert(
        "PafuFrontLags",
        f'{BY_MODEL} (increase(pafu_front_lag_seconds_bucket{{le="+Inf"}}[5m])) - '
        f'{BY_MODEL} (increase(pafu_front_lag_seconds_bucket{{le="0.25"}}[5m])) > 0.5',
        "0m",
        "ticket",
        "The front's event loop was blocked, which delayed every viewer.",
    ),
)


def recording_rules() -> dict[str, Any]:
    """The content of Prometheus's recording rule file."""
    rules = [{"record": rule.name, "expr": rule.expr} for rule in RECORDINGS]
    return {"groups": [{"name": "pafu-recordings", "interval": "15s", "rules": rules}]}


def alert_rules() -> dict[str, Any]:
    """The content of Prometheus's alert file."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "runbook_url": RUNBOOK + alert.name.lower()},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "pafu-alerts", "interval": "15s", "rules": rules}]}
