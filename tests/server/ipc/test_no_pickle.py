"""Promise: no input can make the server run code, and the lint rule that checks this works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def ruff(code: str) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--select", "S301,S302,TID251", "--stdin-filename", "server/x.py"]
    return subprocess.run([*command, "-"], input=code, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import shelve",
        "import marshal",
        "import torch\ntorch.load('x')",
        "from multiprocessing.connection import Client",
        "import pandas\npandas.read_pickle('x')",
    ],
)
def test_the_lint_refuses_whatever_unpickles(code) -> None:
    assert "S301" in (found := ruff(code)) or "TID251" in found
    assert "All checks passed" in ruff("import json")
