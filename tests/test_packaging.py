"""Promise: the installed packages are complete: every package of the repository, the page, server and client."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pafu_client

import server

ROOT = Path(__file__).resolve().parent.parent


def test_every_package_and_the_page_are_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent for top in ("server", "model", "cache") for p in (ROOT / top).rglob("*.py")}
    wanted = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"clients.web", "clients.js.client"}
    assert set(setuptools["packages"]) == wanted
    assert setuptools["package-data"]["clients.web"] == ["*"]
    assert setuptools["package-data"]["clients.js.client"] == ["*.js"]


def test_server_and_client_have_one_version() -> None:
    assert pafu_client.__version__ == server.__version__
