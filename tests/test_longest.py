"""Promise: a function fits one glance and a class has one job. ``python tests/longest.py`` prints the ten longest."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("longest", Path(__file__).parent / "longest.py")
assert _SPEC is not None and _SPEC.loader is not None
longest = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(longest)

MOST_LINES = {"function": 50, "class": 250}


def test_no_function_is_too_long() -> None:
    found = longest.lengths(longest.FUNCTIONS)
    assert len(found) > 2000 and [each for each in found if each[0] > MOST_LINES["function"]] == []


def test_no_class_is_too_long() -> None:
    found = longest.lengths(ast.ClassDef)
    assert len(found) > 400 and [each for each in found if each[0] > MOST_LINES["class"]] == []
