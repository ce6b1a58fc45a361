"""Prints the ten longest functions and the ten longest classes: ``python tests/longest.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cache", "clients/python", "deploy", "model", "server")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def lengths(kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> list[tuple[int, str]]:
    """(lines, where) of definitions of these kinds, the longest first."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted((found for file in files for found in _in(file, kinds)), reverse=True)


def _in(file: Path, kinds: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, kinds):
            lines = node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]
            yield lines, f"{file.relative_to(ROOT)}::{node.name}"  # type: ignore[attr-defined]


if __name__ == "__main__":
    for kinds in (FUNCTIONS, ast.ClassDef):
        for lines, where in lengths(kinds)[:10]:
            print(f"{lines:4} {where}")
        print()
