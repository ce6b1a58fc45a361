"""Print the constraints that a report of ``pip install --report`` (standard input) amounts to: ``make constraints``."""

from __future__ import annotations

import json
import sys

OWN = ("pafu", "pafu-client")


def constraints(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """``name==version`` of every package of the closure but our own, without the local part that a build adds."""
    packages = [item["metadata"] for item in report["install"]]
    found = {package["name"].lower().replace("_", "-"): package["version"] for package in packages}
    return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items()) if name not in OWN]


if __name__ == "__main__":
    print("# The versions that CI tests and the image holds. Made by `make constraints`; do not edit.")
    print(*constraints(json.load(sys.stdin)), sep="\n")
