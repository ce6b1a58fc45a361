"""Promise: the examples in docs/api.md work as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.bench.launch import launched

ROOT = Path(__file__).resolve().parents[2]
KEY = "the-key-of-the-examples-0123456789"
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "docs" / "api.md").read_text()


def examples() -> list[tuple[int, str, str]]:
    """Line, language and text of every example."""
    return [(TEXT[: found.start()].count("\n") + 1, found[1], found[2]) for found in FENCE.finditer(TEXT)]


@pytest.fixture(scope="module")
def keyed_server() -> Iterator[str]:
    with launched(max_sessions=4, model="test-tiny", api_keys=KEY) as server:
        server.wait_ready()
        yield server.url()


def run(language: str, code: str, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PAFU_")}
    path = os.pathsep.join((str(Path(sys.executable).parent), environ.get("PATH", "")))
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    return subprocess.run(
        command,
        env={**environ, "PATH": path, "PAFU_URL": url, "PAFU_API_KEY": KEY},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("line", "language", "code"), examples(), ids=lambda value: str(value)[:12].split("\n")[0])
def test_an_example_of_the_docs_works(keyed_server: str, tmp_path: Path, line: int, language: str, code: str) -> None:
    done = run(language, code, tmp_path, keyed_server)
    assert done.returncode == 0, f"docs/api.md, line {line}:\n{done.stdout}\n{done.stderr}"


def test_the_examples_are_found() -> None:
    assert {language for _, language, _ in examples()} == {"bash", "python"} and len(examples()) >= 7


def test_every_route_is_in_the_docs(keyed_server: str) -> None:
    import httpx

    reply = httpx.get(f"{keyed_server}/openapi.json", headers={"authorization": f"Bearer {KEY}"}, trust_env=False)
    missing = [path for path in reply.json()["paths"] if path not in TEXT]
    assert not missing, f"docs/api.md does not mention {missing}"
