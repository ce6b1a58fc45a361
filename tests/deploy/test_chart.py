"""Promise: the Helm chart renders to valid objects, and a pod starts with the chart's settings.

Helm comes from ``deploy/helm/get-helm``. Without Helm the tests are skipped, unless PAFU_TEST_REQUIRE_HELM=1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import Settings, load_settings
from server.http.service import STOP_WITHIN

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/pafu"
EVERYTHING = {
    "gpu": {"count": 1},
    "model": {"name": "wan2.1-1.3b", "weights": "self-forcing", "claim": "weights"},
    "settings": {"max_sessions": 3, "log_prompts": True},
    "secrets": {"PAFU_API_KEYS": {"name": "pafu", "key": "api-keys"}},
    "ingress": {"enabled": True, "host": "video.example.org", "tlsSecret": "tls"},
    "gateway": {"enabled": True, "name": "outer", "host": "gw.example.org"},
    "autoscaling": {"enabled": True},
    "metrics": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboards": {"enabled": True}},
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
}
ON_RAY = {
    **EVERYTHING,
    "ray": {"enabled": True, "workers": {"replicas": 2, "min": 1, "max": 4}},
    "settings": {
        "database": "postgresql://pafu@db/pafu",
        "sessions": "s3://pafu/sessions",
        "videos": "s3://pafu/videos",
    },
}
FROM_ELSEWHERE = {
    "RayCluster",
    "PodMonitor",
    "PrometheusRule",
    "ScaledObject",
    "HTTPRoute",
}  # their schemas are not Kubernetes' own


@pytest.fixture(scope="module")
def helm() -> str:
    found = subprocess.run([str(ROOT / "deploy/helm/get-helm")], capture_output=True, text=True)
    if found.returncode:
        no = pytest.fail if os.environ.get("PAFU_TEST_REQUIRE_HELM") == "1" else pytest.skip
        no(f"no helm: {found.stderr}")
    return found.stdout.strip()


def rendered(helm: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [helm, "template", "pafu", str(CHART), "--namespace", "video", "--values", "-"]
    return subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True)


def objects(helm: str, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    run = rendered(helm, values)
    assert run.returncode == 0, run.stderr
    found = [one for one in yaml.safe_load_all(run.stdout) if one]
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}


def pod_of(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dict(found["StatefulSet/pafu"]["spec"]["template"]["spec"])


def environment(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod_of(found)["containers"][0]["env"] if "value" in one}


def test_lint_has_nothing_to_say(helm: str) -> None:
    run = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    "values", [{}, EVERYTHING, ON_RAY, {"keda": {"enabled": True}, "persistence": {"enabled": False}}]
)
def test_what_it_renders_is_valid_kubernetes(helm: str, values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    found = objects(helm, values)
    for name, one in found.items():
        if one["kind"] not in FROM_ELSEWHERE:
            validate.validate(one, "1.30", strict=True), name
    if values is EVERYTHING:
        assert {one["kind"] for one in found.values()} >= {"HorizontalPodAutoscaler", "NetworkPolicy", "ConfigMap"}


@pytest.mark.parametrize("values", [{}, EVERYTHING])
def test_a_pod_starts_with_what_the_chart_sets(helm: str, values: dict[str, Any]) -> None:
    found = objects(helm, values)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT}/clients/python", **environment(found)}
    environ |= {"PAFU_WEIGHTS": ""}  # no such folder here
    code = (
        "from server.config import load_settings; s = load_settings(); print(s.model, s.device, s.max_sessions, s.port)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    model, device = ("wan2.1-1.3b", "cuda") if values else ("pafu-mini", "cpu")
    assert run.stdout.split() == [model, device, "3" if values else "None", "8000"], run.stderr


def test_a_pod_is_unprivileged_drains_in_time_and_takes_one_gpu(helm: str) -> None:
    found = objects(helm, EVERYTHING)
    pod = pod_of(found)
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["enableServiceLinks"] is False, "a service called pafu would set PAFU_PORT"
    assert float(environment(found)["PAFU_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    } == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    hosts = environment(found)["PAFU_ALLOWED_HOSTS"].split(",")
    assert hosts == ["pafu", "pafu.video.svc", "video.example.org", "gw.example.org"]


def test_on_ray_the_gpus_are_the_clusters_and_the_pods_are_fronts(helm: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    found = objects(helm, ON_RAY)
    front, environ = pod_of(found)["containers"][0], environment(found)
    assert "nvidia.com/gpu" not in front["resources"]["limits"], "a front takes no GPU"
    assert environ["PAFU_ENGINE"] == "ray" and environ["PAFU_RAY_ADDRESS"] == "pafu-ray-head-svc:6379"
    cluster = found["RayCluster/pafu-ray"]["spec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 1, 4)
    for group in (cluster["headGroupSpec"], workers):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        validate.validate({**pod, "metadata": {"name": "ray", **pod["metadata"]}}, "1.30", strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["image"] == front["image"], "one version of Pafu and Ray"
        assert container["securityContext"]["readOnlyRootFilesystem"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    kept_out = found["NetworkPolicy/pafu-ray"]["spec"]
    assert kept_out["podSelector"]["matchLabels"] == {"ray.io/cluster": "pafu-ray"} and len(kept_out["ingress"]) == 1


@pytest.mark.parametrize(
    ("chosen", "rendered_as"),
    [
        ({}, {"sessionName": "pafu-pod", "type": "Cookie"}),
        ({"sessionPersistence": "cookie"}, {"cookie": {"name": "pafu-pod"}, "type": "Cookie"}),
        ({"sessionPersistence": "none"}, None),
    ],
)
def test_a_gateway_s_route_names_its_cookie_as_that_version_wants_it(helm: str, chosen, rendered_as) -> None:
    found = objects(helm, {"gateway": {"enabled": True, "name": "outer", **chosen}})
    (rule,) = found["HTTPRoute/pafu"]["spec"]["rules"]
    assert rule.get("sessionPersistence") == rendered_as


def test_runbook_links_lead_where_the_values_say(helm: str) -> None:
    wiki = "https://wiki.example.org/pafu"
    found = objects(helm, {"metrics": {"rules": {"enabled": True, "runbooks": wiki}}})
    rules = [rule for group in found["PrometheusRule/pafu"]["spec"]["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert alerts and alerts == {name: f"{wiki}#{name.lower()}" for name in alerts}


def test_secrets_are_never_values(helm: str) -> None:
    (one,) = [
        env for env in pod_of(objects(helm, EVERYTHING))["containers"][0]["env"] if env["name"] == "PAFU_API_KEYS"
    ]
    assert one["valueFrom"] == {"secretKeyRef": {"name": "pafu", "key": "api-keys"}} and "value" not in one


def test_the_server_reads_every_setting_as_it_was_written(helm: str, monkeypatch) -> None:
    """Helm itself writes large numbers as 8.589934592e+09."""
    given = {
        "cache_room_bytes": 8 * 2**30,
        "max_lead_seconds": 2.5,
        "log_prompts": True,
        "allowed_hosts": "a.org, b.org",
    }
    for name, value in environment(objects(helm, {"settings": given})).items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert (settings.cache_room_bytes, settings.max_lead_seconds, settings.log_prompts) == (8 * 2**30, 2.5, True)
    assert settings.allowed_hosts == ("pafu", "pafu.video.svc", "a.org", "b.org")


@pytest.mark.parametrize("values", [{}, ON_RAY])
def test_no_variable_is_set_twice(helm: str, values: dict[str, Any]) -> None:
    more = {"settings": {**values.get("settings", {}), "device": "cuda:0", "log_format": "text", "weights": "a/b"}}
    values = {**values, **more, "model": {"name": "self-forcing"}}
    names = [each["name"] for each in pod_of(objects(helm, values))["containers"][0]["env"]]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpu": {"cout": 1}}, "cout"),
        ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "not"),
        ({"persistence": {"size": "much"}}, "size"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
        ({"gateway": {"enabled": True}}, "gateway.name"),
        ({"ray": {"enabled": True}}, "gpu.count"),
        ({**ON_RAY, "settings": {"database": "postgresql://db/pafu", "videos": "s3://b/v"}}, "PAFU_SESSIONS"),
        ({"settings": {"max_sesions": 3}}, "max_sesions"),
        ({"settings": {"port": 9000}}, "port"),
        ({"settings": {"shutdown_timeout": 100}}, "shutdown_timeout"),
        ({"settings": {"max_sessions": [3]}}, "max_sessions"),
        ({"settings": {"database": "x"}, "secrets": {"PAFU_DATABASE": {"name": "x", "key": "k"}}}, "same setting"),
        ({"settings": {"weights": "a/b"}, "model": {"name": "self-forcing", "weights": "c"}}, "same setting"),
        ({"keda": {"enabled": True, "minReplicas": 9, "maxReplicas": 2}}, "keda: the minimum, 9, is larger"),
        ({"keda": {"prometheus": "prometheus:9090"}}, "prometheus"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "maxUnavailable"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: str, values: dict[str, Any], said: str) -> None:
    run = rendered(helm, values)
    assert run.returncode != 0 and said in run.stderr


@pytest.mark.parametrize("seconds", [15, 30, 600])
def test_a_pod_has_more_time_than_its_drain_takes(helm: str, seconds: int) -> None:
    found = objects(helm, {"terminationGracePeriodSeconds": seconds})
    assert pod_of(found)["terminationGracePeriodSeconds"] >= needed(float(environment(found)["PAFU_SHUTDOWN_TIMEOUT"]))


def test_systemd_and_compose_wait_longer_than_a_drain_takes() -> None:
    text = (ROOT / "deploy/systemd/pafu.service").read_text()
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert unit["KillMode"] == "mixed" and "3" in unit["RestartPreventExitStatus"]
    usual = needed(Settings.model_fields["shutdown_timeout"].default)
    assert int(unit["TimeoutStopSec"]) >= usual
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    for name in ("pafu", "pafu-gpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) >= usual


def needed(shutdown_timeout: float) -> float:
    """Seconds after which a server that drains has ended."""
    return shutdown_timeout + STOP_WITHIN


def test_a_pod_with_two_gpus_may_share_a_model_between_them(helm: str) -> None:
    values = {**EVERYTHING, "gpu": {"count": 2}, "settings": {"device": "cuda:0+cuda:1"}}
    pod = pod_of(objects(helm, values))
    (container,) = pod["containers"]
    assert [each["value"] for each in container["env"] if each["name"] == "PAFU_DEVICE"] == ["cuda:0+cuda:1"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    (shm,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
