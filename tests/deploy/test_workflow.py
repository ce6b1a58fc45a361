"""Promise: the workflow for a public forge is valid and does what .ci/run does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    """Validate against the forge's own schema, of which the tool has a copy."""
    command = [sys.executable, "-P", "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=120)


def test_every_workflow_is_valid(tmp_path: Path) -> None:
    assert WORKFLOWS
    checked = check(*WORKFLOWS)
    assert checked.returncode == 0, checked.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs_on:"))
    assert check(broken).returncode == 1, "the check finds nothing"


def test_the_workflow_runs_what_ci_runs_and_nothing_else() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    done = [step.get("run") or step["uses"].partition("@")[0] for step in job["steps"]]
    preparing = ("apt-get update", "actions/checkout", "git config")
    assert [step for step in done if not step.startswith(preparing)] == [".ci/run"]
    assert all(len(step["uses"].partition("@")[2]) == 40 for step in job["steps"] if "uses" in step), "pinned by commit"
