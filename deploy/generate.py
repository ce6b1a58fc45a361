"""Make the files that follow from metrics, settings and messages: ``python -m deploy.generate``; ``--check`` compares.

What is made is committed, so that nobody needs Python to use it; a test holds it to what it follows from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from deploy.board import board_json, queries
from deploy.page_types import page_types
from deploy.rules import ALERTS, RECORDINGS, alert_rules, recording_rules
from deploy.settings import example_toml, settings_page
from server.http import asyncapi, client_types
from server.telemetry.metrics import BY_CONSTRUCTION, METRICS, OTHER, Metric

ROOT = Path(__file__).resolve().parent.parent
NOTE = "Made by `python -m deploy.generate`; do not edit."
CHART = "deploy/helm/pafu/files"
MANY = 8  # values of a label that the docs spell out


class UnknownMetric(ValueError):
    """An expression asks for a name that nobody measures."""


def files() -> dict[str, str]:
    """Path from the repository's root -> content."""
    check_names([*queries(), *(rule.expr for rule in (*RECORDINGS, *ALERTS))])
    board, recordings, alerts = board_json(), rules_text(recording_rules()), rules_text(alert_rules())
    return {
        "deploy/grafana/dashboards/pafu.json": board,
        "deploy/prometheus/rules/recordings.yml": recordings,
        "deploy/prometheus/rules/alerts.yml": alerts,
        f"{CHART}/pafu.json": board,  # a chart can only read files of its own
        f"{CHART}/recordings.yml": recordings,
        f"{CHART}/alerts.yml": alerts,
        "clients/js/client/messages.d.ts": page_types(NOTE),
        "clients/python/pafu_client/chunk_stats.py": client_types.text(),
        "docs/asyncapi.json": asyncapi.text(),
        "docs/metrics.md": metrics_page(),
        "docs/settings.md": settings_page(NOTE),
        "deploy/pafu.example.toml": example_toml(NOTE),
    }


def check_names(expressions: Iterable[str]) -> None:
    """Raise UnknownMetric unless each expression speaks of known metrics and recordings only."""
    known = {rule.name for rule in RECORDINGS}
    for metric in METRICS:
        known |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")} if metric.buckets else {metric.name}
    for expression in expressions:
        for name in re.findall(r"\bpafu[_:][a-z0-9_:]+", expression):
            if name not in known:
                raise UnknownMetric(f"{name!r} in {expression!r} is not in server/telemetry/metrics.py")


def rules_text(rules: dict[str, object]) -> str:
    return f"# {NOTE}\n" + yaml.safe_dump(rules, sort_keys=False, width=200)


def metrics_page() -> str:
    """docs/metrics.md: all names, by group."""
    lines = [
        "# Metrics",
        "",
        f"<!-- {NOTE} -->",
        "",
        "`GET /metrics` answers Prometheus in its text format or in OpenMetrics; `PAFU_METRICS_PORT` moves it to a",
        "port of its own. Every metric also carries `model_name`. Label values come from closed lists (what is not on",
        f"its list counts as `{OTHER}`); no label ever holds a session, a prompt or a caller.",
        "`process_*` is the front.",
    ]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        lines += ["", f"## {group.capitalize()}", "", "| name | kind | labels | what it says |", "|---|---|---|---|"]
        lines += [f"| `{m.name}` | {m.kind} | {labels_text(m)} | {m.help} |" for m in METRICS if m.group == group]
    lines += ["", "## Recording rules", "", "| name | expression |", "|---|---|"]
    lines += [f"| `{rule.name}` | `{rule.expr.replace('|', chr(92) + '|')}` |" for rule in RECORDINGS]
    return "\n".join(lines) + "\n"


def labels_text(metric: Metric) -> str:
    def values(known: tuple[str, ...]) -> str:
        if known == BY_CONSTRUCTION:
            return ""
        more = " ..." if len(known) > MANY else ""
        return f": {', '.join(known[:MANY])}{more}"

    return "; ".join(f"`{label}`{values(known)}" for label, known in metric.labels.items())


def main() -> int:
    """Write the files, or with --check say which differ; the exit status."""
    different = [
        path for path, text in files().items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        for path in different:
            print(f"{path} is not what its generator makes: run python -m deploy.generate")
        return bool(different)
    for path in different:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(files()[path])
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
