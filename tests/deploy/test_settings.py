"""Promise: every setting is documented with its allowed values, and the example configuration works."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from server.config import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_setting_says_what_it_is_and_what_is_allowed() -> None:
    rows = re.findall(r"^\| `PAFU_(\w+)`[^|]*\|([^|]*)\|[^|]*\|(.*)\|$", (ROOT / "docs/settings.md").read_text(), re.M)
    assert [name.lower() for name, _, _ in rows] == list(Settings.model_fields)
    assert all(allowed.strip() and words.strip() for _, allowed, words in rows)


def test_every_example_is_of_a_setting() -> None:
    settings = importlib.import_module("deploy.settings")
    assert set(settings.EXAMPLES) <= set(Settings.model_fields)


def test_the_example_configuration_works_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every line uncommented; writing down a default changes nothing."""
    settings = importlib.import_module("deploy.settings")
    lines = (ROOT / "deploy/pafu.example.toml").read_text().splitlines()
    file = tmp_path / "pafu.toml"
    file.write_text("\n".join(line.removeprefix("# ") for line in lines if re.match(r"# \w+ = ", line)))
    loaded, plain = load_settings({"config": file}, {}), Settings()
    for name in Settings.model_fields:
        assert name in settings.EXAMPLES or getattr(loaded, name) == getattr(plain, name), name
