"""Promise: constraints.txt pins every dependency to a version that pyproject.toml allows."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pinned = constraints()
    for line in lines:
        name, bounds = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(.*)", line).groups()  # type: ignore[union-attr]
        if name == "pafu":
            continue
        version = numbers(pinned[name.lower()])
        for sign, bound in re.findall(r"(>=|<|==)([\d.]+)", bounds):
            holds = {">=": version >= numbers(bound), "<": version < numbers(bound), "==": version == numbers(bound)}
            assert holds[sign], f"{line}: constraints.txt has {pinned[name.lower()]}; run make constraints"


def test_constraints_leave_out_our_own_packages_and_the_local_part_of_a_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    given = [("pafu", "0.1.0"), ("torch", "2.13.0+cpu"), ("PyYAML", "6.0.4")]
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in given]}
    assert importlib.import_module("deploy.constraints").constraints(report) == ["pyyaml==6.0.4", "torch==2.13.0"]
