"""What is installed is whole: every package of the repository, and the page."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_and_the_page_are_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent for top in ("server", "model", "cache") for p in (ROOT / top).rglob("*.py")}
    wanted = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"clients.web", "pafu_client"}
    assert set(setuptools["packages"]) == wanted
    assert setuptools["package-data"]["clients.web"] == ["*"]
