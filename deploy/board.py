"""The Grafana dashboard as code: rows of panels over server/telemetry/metrics.py and the recording rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
MODEL = 'model_name=~"$model", instance=~"$instance"'
WORKER = 'worker=~"$worker"'
REPEATED = "Worker $worker"  # a row repeated for each selected worker
COLUMNS, WIDTH, HEIGHT = 3, 8, 8


@dataclass(frozen=True)
class Line:
    """One query; ``legend`` may contain labels in double braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Graph:
    """One panel; ``big`` shows the latest value as a number instead of a graph."""

    title: str
    unit: str
    lines: Sequence[Line]
    about: str
    big: bool = False
    stacked: bool = False


def rate(metric: str, *by: str, where: str = "") -> str:
    labels = ", ".join([MODEL, *([where] if where else [])])
    total = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{total} (rate({metric}{{{labels}}}[$__rate_interval]))"


def now(metric: str, *by: str, where: str = "") -> str:
    labels = ", ".join([MODEL, *([where] if where else [])])
    return f"sum by ({', '.join(by)}) ({metric}{{{labels}}})" if by else f"sum({metric}{{{labels}}})"


def quantiles(metric: str, *shares: float) -> list[Line]:
    total = f"sum by (le) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval]))"
    return [Line(f"histogram_quantile({share:g}, {total})", f"p{100 * share:g}") for share in shares]


def share(part: str, whole: str, *by: str) -> str:
    """One rate divided by another: 0 if the part never happened, no value while the whole is 0."""
    return f"({rate(part, *by)} or 0 * {rate(whole, *by)}) / ({rate(whole, *by)} > 0)"


def mean(metric: str, *by: str, where: str = "") -> str:
    return f"{rate(metric + '_sum', *by, where=where)} / {rate(metric + '_count', *by, where=where)}"


ROWS: dict[str, Sequence[Graph]] = {
    "Now": (
        Graph("Live sessions", "none", [Line(now("pafu_sessions_active"))], "Sessions streaming now.", big=True),
        Graph(
            "First chunk, p95",
            "s",
            quantiles("pafu_time_to_first_chunk_seconds", 0.95),
            "Time from session.start until the first chunk was sent.",
            big=True,
        ),
        Graph(
            "Late chunks",
            "percentunit",
            [Line(share("pafu_deadline_misses_total", "pafu_chunks_total"))],
            "Share of chunks sent to viewers who had run out of video.",
            big=True,
        ),
    ),
    "Sessions and admission": (
        Graph(
            "Sessions",
            "none",
            [
                Line(now("pafu_sessions_active"), "active"),
                Line(now("pafu_sessions_waiting"), "waiting"),
                Line(now("pafu_sessions_suspended", "where"), "suspended, {{where}}"),
                Line(now("pafu_sessions_limit"), "limit"),
            ],
            "Sessions by status. Suspended ones on the device make room for others.",
        ),
        Graph(
            "Viewers",
            "none",
            [Line(now("pafu_viewers", "role"), "{{role}}")],
            "Connections with an open session, by role.",
        ),
        Graph(
            "Sessions ended",
            "cps",
            [Line(rate("pafu_sessions_finished_total", "reason") + " > 0", "{{reason}}")],
            "By reason: a regular end or an error code.",
        ),
        Graph(
            "Viewers rejected",
            "cps",
            [Line(rate("pafu_session_rejections_total", "reason") + " > 0", "{{reason}}")],
            "Connections that ended before getting a place, by reason.",
        ),
        Graph(
            "Viewers left",
            "cps",
            [Line(rate("pafu_viewers_left_total", "reason") + " > 0", "{{reason}}")],
            "Ended connections, by reason; their sessions may continue.",
        ),
        Graph(
            "Sessions started",
            "cps",
            [
                Line(rate("pafu_sessions_started_total"), "started"),
                Line(rate("pafu_session_resumes_total"), "resumed"),
            ],
            "Sessions started and resumed per second.",
        ),
        Graph(
            "Journal write failures",
            "cps",
            [Line(rate("pafu_session_journal_failures_total"), "failed writes")],
            "The data folder is full or missing: a server crash would lose the current sessions.",
        ),
        Graph("Session length", "s", quantiles("pafu_session_seconds", 0.5, 0.95), "Duration of sessions."),
    ),
    "Latency": (
        Graph(
            "Time to first chunk",
            "s",
            quantiles("pafu_time_to_first_chunk_seconds", 0.5, 0.95, 0.99),
            "Time that a viewer waits for the first chunk.",
        ),
        Graph(
            "Chunk time by stage (mean)",
            "s",
            [Line(mean("pafu_chunk_seconds", "stage", where='stage!="total"'), "{{stage}}")],
            "Time per chunk, by stage.",
            stacked=True,
        ),
        Graph(
            "Prompt switch",
            "s",
            quantiles("pafu_prompt_switch_seconds", 0.5, 0.95),
            "Time from queueing a change until the first chunk that shows it.",
        ),
    ),
    "Playout continuity": (
        Graph(
            "Late chunks",
            "percentunit",
            [Line(share("pafu_deadline_misses_total", "pafu_chunks_total", "model_name"), "{{model_name}}")],
            "Share of chunks sent to viewers who had run out of video.",
        ),
        Graph(
            "Real-time factor",
            "none",
            quantiles("pafu_real_time_factor", 0.1, 0.5),
            "Playing time divided by generation time of a chunk; below 1 viewers must wait.",
        ),
        Graph(
            "Gap between chunks",
            "s",
            quantiles("pafu_inter_chunk_seconds", 0.5, 0.95),
            "Time between two chunks of a session.",
        ),
        Graph(
            "Seconds lost per second",
            "none",
            [
                Line(rate("pafu_viewer_starved_seconds_total"), "starved (server too slow)"),
                Line(rate("pafu_viewer_stall_seconds_total"), "stalled (viewer does not read)"),
            ],
            "Starved: viewers had nothing to play. Stalled: chunks waited for viewers who did not read.",
        ),
        Graph(
            "Viewers that do not read",
            "none",
            [Line(now("pafu_viewers_stalled"), "stalled")],
            "Viewers who have read nothing for over 1 s.",
        ),
        Graph(
            "Video and bytes out",
            "none",
            [
                Line(rate("pafu_media_seconds_total"), "media seconds per second"),
                Line(rate("pafu_pictures_total"), "pictures per second"),
                Line(rate("pafu_chunks_total"), "chunks per second"),
                Line(rate("pafu_sent_bytes_total", "format") + " / 1e6", "MB per second, {{format}}"),
            ],
            "Output to all viewers.",
        ),
    ),
    "Cache": (
        Graph(
            "Cache bytes",
            "bytes",
            [
                Line(now("pafu_kv_cache_bytes"), "used"),
                Line(now("pafu_kv_cache_reserved_bytes"), "reserved"),
                Line(now("pafu_kv_cache_limit_bytes"), "limit"),
            ],
            "Caches of all sessions and jobs; admission stops at the limit.",
        ),
        Graph(
            "Tokens kept",
            "none",
            [Line(now("pafu_kv_cache_tokens"), "tokens")],
            "Cached tokens of all sessions, counted in each session's fullest layer.",
        ),
        Graph(
            "Budget used",
            "percentunit",
            [Line(f"avg(pafu_kv_cache_usage_ratio{{{MODEL}}})", "used")],
            "Cached tokens divided by the tokens that the budgets allow.",
        ),
        Graph(
            "Tokens evicted",
            "cps",
            [Line(rate("pafu_kv_evicted_tokens_total", "reason", "policy") + " > 0", "{{policy}}, {{reason}}")],
            "Pruned to the budget, or freed at the end of a session.",
        ),
        Graph(
            "Scores of kept tokens",
            "none",
            [Line(f"max by (policy, share) (pafu_salience_score{{{MODEL}}})", "{{policy}} q{{share}}")],
            "Quantiles in the newest chunk, for policies with scores.",
        ),
        Graph(
            "Policy fallbacks",
            "none",
            [Line(f"sum(increase(pafu_kv_policy_fallbacks_total{{{MODEL}}}[$__rate_interval]))", "sessions")],
            "Sessions whose token scores were not finite.",
        ),
    ),
    "Memory": (
        Graph(
            "GPU memory",
            "bytes",
            [
                Line(
                    now("pafu_device_memory_bytes", "instance", "worker", "kind"),
                    "{{instance}} {{worker}} {{kind}}",
                )
            ],
            "Empty on a CPU.",
        ),
        Graph(
            "Worker memory",
            "bytes",
            [Line(now("pafu_worker_memory_bytes", "instance", "worker"), "{{instance}} {{worker}}")],
            "Resident memory of worker processes.",
        ),
        Graph(
            "Front memory",
            "bytes",
            [Line('process_resident_memory_bytes{job="pafu", instance=~"$instance"}', "{{instance}}")],
            "Resident memory of the front process.",
        ),
    ),
    REPEATED: (
        Graph(
            "State",
            "none",
            [Line(now("pafu_worker_state", "device", "state", where=WORKER) + " > 0", "{{device}} {{state}}")],
            "The worker's state; it accepts sessions only when ready.",
        ),
        Graph(
            "Sessions and jobs",
            "none",
            [
                Line(now("pafu_worker_sessions", where=WORKER), "running"),
                Line(now("pafu_worker_sessions_limit", where=WORKER), "limit"),
            ],
            "Sessions and jobs on the worker, and their limit.",
        ),
        Graph(
            "Cache bytes reserved",
            "bytes",
            [
                Line(now("pafu_worker_cache_reserved_bytes", where=WORKER), "reserved"),
                Line(now("pafu_worker_cache_limit_bytes", where=WORKER), "limit"),
            ],
            "Reserved for all caches on the worker.",
        ),
        Graph(
            "Busy",
            "percentunit",
            [Line(rate("pafu_worker_busy_seconds_total", where=WORKER), "busy")],
            "Share of time in which the worker generates chunks.",
        ),
        Graph("Chunks", "cps", [Line(rate("pafu_worker_chunks_total", where=WORKER), "chunks")], "Generated chunks."),
        Graph(
            "Processes lost",
            "none",
            [
                Line(
                    f"sum by (reason) (increase(pafu_worker_restarts_total{{{MODEL}, {WORKER}}}[$__rate_interval]))",
                    "{{reason}}",
                )
            ],
            "By cause.",
        ),
    ),
    "Jobs": (
        Graph("Jobs", "none", [Line(now("pafu_jobs", "state"), "{{state}}")], "Unfinished jobs, by state."),
        Graph("Jobs finished", "cps", [Line(rate("pafu_jobs_finished_total", "state"), "{{state}}")], "By state."),
        Graph(
            "Store and disk",
            "none",
            [
                Line(now("pafu_jobs_store_up"), "store available"),
                Line(f"min(pafu_data_free_bytes{{{MODEL}}}) / 2^30", "GiB free"),
            ],
            "The job store, and the data folder's disk.",
        ),
        Graph(
            "Oldest waiting job",
            "s",
            [Line(f"max(pafu_job_queue_age_seconds{{{MODEL}}})", "age")],
            "Waiting time of the oldest queued job.",
        ),
    ),
    "Errors, requests, restarts": (
        Graph(
            "Errors reported to callers",
            "cps",
            [Line(rate("pafu_errors_total", "code") + " > 0", "{{code}}")],
            "HTTP and WebSocket errors, by code.",
        ),
        Graph(
            "HTTP requests",
            "reqps",
            [Line(rate("pafu_request_duration_seconds_count", "route", "status"), "{{route}} {{status}}")],
            "By route and status.",
        ),
        Graph(
            "Event loop lag",
            "s",
            [
                *quantiles("pafu_front_lag_seconds", 0.99, 1),
                *(Line(line.expr, f"{line.legend} busy") for line in quantiles("pafu_front_busy_seconds", 1)),
            ],
            "Delay of the front's event loop, which affects everyone; busy: the part caused by its own work.",
        ),
        Graph(
            "Connections",
            "none",
            [
                Line(now("pafu_connections"), "open"),
                Line(rate("pafu_connections_refused_total"), "refused per second"),
            ],
            "Open connections, and those refused over a limit.",
        ),
        Graph("HTTP time", "s", quantiles("pafu_request_duration_seconds", 0.5, 0.95), "All routes."),
        Graph(
            "Workers lost",
            "none",
            [
                Line(
                    f"sum by (reason) (increase(pafu_worker_restarts_total{{{MODEL}}}[$__rate_interval]))", "{{reason}}"
                )
            ],
            "By cause.",
        ),
        Graph(
            "Engine state",
            "none",
            [Line(now("pafu_engine_state", "state"), "{{state}}")],
            "1 for the current state.",
        ),
        Graph(
            "Worker beat age",
            "s",
            [
                Line(
                    f"max by (instance, worker) (pafu_worker_beat_age_seconds{{{MODEL}}})",
                    "{{instance}} {{worker}}",
                )
            ],
            "Time since the last heartbeat of the step loop.",
        ),
        Graph(
            "Start of the newest worker",
            "s",
            [
                Line(f"max(pafu_worker_load_seconds{{{MODEL}}})", "load"),
                Line(f"max(pafu_worker_warm_up_seconds{{{MODEL}}})", "warm up"),
            ],
            "Time to load the model and to generate the warm-up chunk.",
        ),
        Graph(
            "Versions",
            "none",
            [
                Line(
                    f"max by (version, torch, device, model_name) (pafu_build_info{{{MODEL}}})",
                    "{{model_name}} {{version}} torch {{torch}} on {{device}}",
                )
            ],
            "Model, versions and device of each server.",
        ),
    ),
}


def queries() -> list[str]:
    """All expressions of the dashboard."""
    return [line.expr for graphs in ROWS.values() for graph in graphs for line in graph.lines]


VARIABLES = {  # name -> (label, metric whose labels are its values, their label)
    "model": ("Model", "pafu_engine_state", "model_name"),
    "instance": ("Server", 'pafu_engine_state{model_name=~"$model"}', "instance"),
    "device": ("Device", f"pafu_worker_state{{{MODEL}}}", "device"),
    "worker": ("Worker", f'pafu_worker_state{{{MODEL}, device=~"$device"}}', "worker"),
}


def variable(name: str) -> dashboard.QueryVariable:
    """A choice at the top of the dashboard; several values may be chosen."""
    title, metric, label = VARIABLES[name]
    return (
        dashboard.QueryVariable(name)
        .label(title)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .multi(True)
    )


def board_json() -> str:
    """The dashboard as JSON for Grafana."""
    board = (
        dashboard.Dashboard("Pafu")
        .uid("pafu")
        .tags(["pafu"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").label("Source").type("prometheus"))
    )
    for name in VARIABLES:
        board.with_variable(variable(name))
    for title, graphs in ROWS.items():
        row = dashboard.Row(title)
        board.with_row(row.repeat("worker") if title == REPEATED else row)
        for graph in graphs:
            board.with_panel(panel(graph))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def panel(graph: Graph) -> stat.Panel | timeseries.Panel:
    made = stat.Panel() if graph.big else timeseries.Panel()
    made.title(graph.title).description(graph.about).unit(graph.unit).datasource(SOURCE)
    made.span(WIDTH).height(HEIGHT // 2 if graph.big else HEIGHT)
    for line in graph.lines:
        made.with_target(prometheus.Dataquery().expr(line.expr).legend_format(line.legend))
    if isinstance(made, timeseries.Panel):
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        made.min(0).fill_opacity(10).legend(legend.show_legend(True))
        if graph.stacked:
            made.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    return made
