"""Promise: dashboard, rules and docs match the metrics; every alert fires when it should, and only then."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODEL = 'model_name="m"'


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def generate():
    return importlib.import_module("deploy.generate")


@pytest.fixture(scope="module")
def alerts():
    return {alert.name: alert for alert in importlib.import_module("deploy.rules").ALERTS}


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_PROMETHEUS") == "1" else pytest.skip
        no("no promtool; apt-get install prometheus")
    return program


@dataclass(frozen=True)
class Case:
    """Series (promtool's notation, a sample a minute) that make an alert fire at ``minute``, and some that do not."""

    labels: str
    minute: int
    fires: dict[str, str]
    calm: dict[str, str]


def worker_state(state: str) -> str:
    return series("pafu_worker_state", 'worker="1"', 'device="cpu"', f'state="{state}"')


def series(name: str, *labels: str, on: str = MODEL) -> str:
    return f"{name}{{{', '.join(part for part in (on, *labels) if part)}}}"


def rising(name: str, *labels: str) -> str:
    return series(name, *labels)


def histogram(name: str, slow: str, fast: str, edge: str) -> dict[str, str]:
    """Two buckets: what is at most ``edge``, and everything."""
    return {series(f"{name}_bucket", f'le="{edge}"'): fast, series(f"{name}_bucket", 'le="+Inf"'): slow}


CASES = {
    "PafuDown": Case(
        'job="pafu"', 2, {series("up", 'job="pafu"', on=""): "0x5"}, {series("up", 'job="pafu"', on=""): "1x5"}
    ),
    "PafuEngineFailed": Case(
        f'{MODEL}, state="failed"',
        1,
        {series("pafu_engine_state", 'state="failed"'): "1x5"},
        {series("pafu_engine_state", 'state="failed"'): "0x5"},
    ),
    "PafuNotReady": Case(
        f'{MODEL}, state="restarting"',
        12,
        {series("pafu_engine_state", 'state="restarting"'): "1x15"},
        {series("pafu_engine_state", 'state="restarting"'): "1x5 0x10"},
    ),
    "PafuWorkerFailed": Case(
        f'{MODEL}, device="cpu", state="failed", worker="1"',
        1,
        {worker_state("failed"): "1x5"},
        {worker_state("failed"): "0x5"},
    ),
    "PafuWorkerNotReady": Case(
        f'{MODEL}, device="cpu", state="restarting", worker="1"',
        17,
        {worker_state("restarting"): "1x20"},
        {worker_state("restarting"): "1x5 0x15"},
    ),
    "PafuDrainStuck": Case(
        f'{MODEL}, device="cpu", state="draining", worker="1"',
        62,
        {worker_state("draining"): "1x70"},
        {worker_state("draining"): "1x30 0x40"},
    ),
    "PafuWorkerRestarts": Case(
        f'{MODEL}, worker="1"',
        15,
        {series("pafu_worker_restarts_total", 'worker="1"', 'reason="killed"'): "0 0 1 2 3 4x15"},
        {  # three, but of three workers
            series("pafu_worker_restarts_total", f'worker="{number}"', 'reason="killed"'): "0 0 1x15"
            for number in range(3)
        },
    ),
    "PafuWorkerSilent": Case(
        f'{MODEL}, worker="0"',
        3,
        {series("pafu_worker_beat_age_seconds", 'worker="0"'): "20+60x5"},
        {series("pafu_worker_beat_age_seconds", 'worker="0"'): "0.5x5"},
    ),
    "PafuFirstChunkSlow": Case(
        MODEL,
        20,
        histogram("pafu_time_to_first_chunk_seconds", slow="0+10x20", fast="0+5x20", edge="5"),
        histogram("pafu_time_to_first_chunk_seconds", slow="0+10x20", fast="0+10x20", edge="2"),
    ),
    "PafuPlayoutGaps": Case(
        MODEL,
        12,
        {rising("pafu_deadline_misses_total"): "0+10x20", rising("pafu_chunks_total"): "0+100x20"},
        {rising("pafu_deadline_misses_total"): "0+1x20", rising("pafu_chunks_total"): "0+100x20"},
    ),
    "PafuSlowerThanRealTime": Case(
        MODEL,
        20,
        histogram("pafu_real_time_factor", slow="0+10x20", fast="0+5x20", edge="0.9"),
        histogram("pafu_real_time_factor", slow="0+10x20", fast="0+0x20", edge="1.5"),
    ),
    "PafuFull": Case(
        MODEL,
        20,
        {series("pafu_sessions_active"): "20x20", series("pafu_sessions_limit"): "20x20"},
        {series("pafu_sessions_active"): "10x20", series("pafu_sessions_limit"): "20x20"},
    ),
    "PafuSessionsRejected": Case(
        MODEL,
        10,
        {series("pafu_session_rejections_total", 'reason="session_rejected"'): "0+1x20"},
        {series("pafu_session_rejections_total", 'reason="viewer_left"'): "0+1x20"},
    ),
    "PafuSessionsFail": Case(
        MODEL,
        20,
        {
            series("pafu_sessions_finished_total", 'reason="generation_failed"'): "0+1x20",
            series("pafu_sessions_finished_total", 'reason="complete"'): "0+9x20",
        },
        {
            series("pafu_sessions_finished_total", 'reason="expired"'): "0+5x20",
            series("pafu_sessions_finished_total", 'reason="complete"'): "0+5x20",
        },
    ),
    "PafuViewersStalled": Case(
        MODEL,
        10,
        {series("pafu_viewers_stalled"): "3x20", series("pafu_viewers", 'role="owner"'): "4x20"},
        {series("pafu_viewers_stalled"): "0x20", series("pafu_viewers", 'role="owner"'): "0x20"},
    ),
    "PafuDeviceMemoryLow": Case(
        f'{MODEL}, worker="0"',
        10,
        {
            series("pafu_device_memory_bytes", 'worker="0"', 'kind="free"'): "1e9x20",
            series("pafu_device_memory_bytes", 'worker="0"', 'kind="total"'): "80e9x20",
        },
        {
            series("pafu_device_memory_bytes", 'worker="0"', 'kind="free"'): "9e9x20",
            series("pafu_device_memory_bytes", 'worker="0"', 'kind="total"'): "80e9x20",
        },
    ),
    "PafuWorkerMemoryGrows": Case(
        f'{MODEL}, worker="0"',
        170,
        {series("pafu_worker_memory_bytes", 'worker="0"'): "1e9+2e7x200"},
        {series("pafu_worker_memory_bytes", 'worker="0"'): "1e9x200"},
    ),
    "PafuScoresNotFinite": Case(
        MODEL,
        5,
        {series("pafu_kv_policy_fallbacks_total"): "0 0 1x10"},
        {series("pafu_kv_policy_fallbacks_total"): "1x10"},
    ),
    "PafuServerErrors": Case(
        MODEL,
        12,
        {
            series("pafu_request_duration_seconds_count", 'status="500"'): "0+10x20",
            series("pafu_request_duration_seconds_count", 'status="200"'): "0+90x20",
        },
        {
            series("pafu_request_duration_seconds_count", 'route="/readyz"', 'status="503"'): "0+50x20",
            series("pafu_request_duration_seconds_count", 'status="404"'): "0+50x20",
            series("pafu_request_duration_seconds_count", 'status="200"'): "0+50x20",
        },
    ),
    "PafuJobsWait": Case(
        MODEL,
        25,
        {series("pafu_job_queue_age_seconds"): "0+60x30"},
        {series("pafu_job_queue_age_seconds"): "0+60x10 0x30"},
    ),
    "PafuStoreDown": Case(MODEL, 5, {series("pafu_jobs_store_up"): "1 1 0x10"}, {series("pafu_jobs_store_up"): "1x10"}),
    "PafuDiskLow": Case(
        MODEL, 10, {series("pafu_data_free_bytes"): "1e9x20"}, {series("pafu_data_free_bytes"): "9e9x20"}
    ),
    "PafuSessionsNotKept": Case(
        MODEL,
        5,
        {series("pafu_session_journal_failures_total"): "0 0 1x10"},
        {series("pafu_session_journal_failures_total"): "1x10"},
    ),
    "PafuFrontLags": Case(
        MODEL,
        5,
        histogram("pafu_front_lag_seconds", slow="0+2401x10", fast="0+2400x10", edge="0.25"),
        histogram("pafu_front_lag_seconds", slow="0+2400x10", fast="0+2400x10", edge="0.25"),
    ),
    "PafuJobsFail": Case(
        MODEL,
        20,
        {series("pafu_jobs_finished_total", 'state="failed"'): "0+1x30"},
        {series("pafu_jobs_finished_total", 'state="completed"'): "0+1x30"},
    ),
}


def one_test(alert, case: Case, values: dict[str, str], fires: bool) -> dict:
    found = dict(re.findall(r'(\w+)="([^"]*)"', case.labels)) | {"severity": alert.severity}
    annotations = {"summary": alert.summary, "runbook_url": f"docs/operations.md#{alert.name.lower()}"}
    expected = [{"exp_labels": found, "exp_annotations": annotations}] if fires else []
    return {
        "name": f"{alert.name} {'fires' if fires else 'keeps calm'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": numbers} for name, numbers in values.items()],
        "alert_rule_test": [{"eval_time": f"{case.minute}m", "alertname": alert.name, "exp_alerts": expected}],
    }


def test_committed_files_are_what_the_generator_makes(generate) -> None:
    for path, text in generate.files().items():
        assert (ROOT / path).read_text() == text, f"{path}: run python -m deploy.generate"


def test_a_name_that_nobody_measures_cannot_be_asked_for(generate) -> None:
    for expression in ("rate(pafu_chunkz_total[5m])", "pafu_chunk_seconds", "pafu:no_such:p95"):
        with pytest.raises(generate.UnknownMetric):
            generate.check_names([expression])


def test_the_board_shows_every_metric(generate) -> None:
    from server.telemetry.metrics import METRICS

    shown = " ".join(generate.queries()) + " ".join(rule.expr for rule in generate.RECORDINGS)
    assert [
        metric.name for metric in METRICS if not re.search(rf"\b{metric.name}(_bucket|_sum|_count)?\b", shown)
    ] == []
    board = json.loads((ROOT / "deploy/grafana/dashboards/pafu.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({json.dumps(panel["gridPos"]) for panel in panels}) == len(panels), "panels lie on each other"


def test_every_panel_shows_the_chosen_server_alone(generate) -> None:
    assert len(list(generate.queries())) > 30
    for expression in generate.queries():
        assert 'instance=~"$instance"' in expression, expression


def test_rules_and_configuration_pass_promtool(promtool) -> None:
    folder = ROOT / "deploy/prometheus"
    check = [promtool, "check", "config", str(folder / "prometheus.yml")]
    run = subprocess.run(check, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 rule files found" in run.stdout, run.stdout


def test_every_alert_fires_and_keeps_calm_as_promtool_says(promtool, alerts, tmp_path) -> None:
    assert CASES.keys() == alerts.keys()
    cases = [(alerts[name], case) for name, case in CASES.items()]
    tests = [one_test(alert, case, case.fires, True) for alert, case in cases]
    tests += [one_test(alert, case, case.calm, False) for alert, case in cases]
    rules = [str(path) for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))]
    file = tmp_path / "alerts.test.yml"
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "15s", "tests": tests}))
    run = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_a_runbook_paragraph(alerts) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert alerts.keys() <= paragraphs.keys(), alerts.keys() - paragraphs.keys()
    for name in alerts:
        assert len(paragraphs[name]) > 150, f"{name}: say what to look at and what to do"


def test_runbook_links_are_absolute_if_the_generator_is_told_so() -> None:
    wiki = "https://wiki.example.org/pafu"
    code = "from deploy.rules import alert_rules; [print(rule['annotations']['runbook_url']) for group in alert_rules()"
    command = [sys.executable, "-c", f"{code}['groups'] for rule in group['rules']]"]
    said = subprocess.run(command, env={**os.environ, "RUNBOOKS": wiki}, cwd=ROOT, capture_output=True, text=True)
    assert said.stdout and all(line.startswith(f"{wiki}#pafu") for line in said.stdout.split()), said.stderr
