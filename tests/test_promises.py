"""Promise: the list of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent


def named() -> list[str]:
    return re.findall(r"`([\w/]+\.py(?:::\w+)?)`", (TESTS / "README.md").read_text())


def functions(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_every_test_of_the_list_is_there() -> None:
    names = [name for name in named() if not name.startswith("tests/")]
    assert len(names) > 40
    for name in names:
        file, _, test = name.partition("::")
        assert (TESTS / file).is_file(), name
        assert not test or test in functions(TESTS / file), name
