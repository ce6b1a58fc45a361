"""Promise: the list of promises names existing tests, and says for every module where it is tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGES = ("cache", "clients/python/pafu_client", "deploy", "model", "server")
ROW = re.compile(r"^\| `((?:" + "|".join(PACKAGES) + r")/[\w/]*(?:\.py)?)` \|(.*)\|$", re.M)


def text() -> str:
    return (TESTS / "README.md").read_text()


def named(words: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py(?:::\w+)?)`", words)


def functions(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def modules() -> list[Path]:
    files = (path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [file for file in files if file.name not in ("__init__.py", "__main__.py")]


def test_every_test_of_the_list_is_there() -> None:
    promises, _, rows = text().partition("## Where a module is tested")
    names = named(promises) + [name for _, tests in ROW.findall(rows) for name in named(tests)]
    names = [name for name in names if not name.startswith("tests/")]
    assert len(names) > 100
    for name in names:
        file, _, test = name.partition("::")
        assert (TESTS / file).is_file(), name
        assert not test or test in functions(TESTS / file), name


def test_every_module_has_a_test_of_its_name_or_a_line_that_says_where_it_is_tested() -> None:
    listed = {where for where, _ in ROW.findall(text())}
    for module in modules():
        mirrored = Path("clients") if module.parts[0] == "clients" else module.parent
        own = TESTS / mirrored / f"test_{module.name}"
        assert own.exists() or {str(module), f"{module.parent}/"} & listed, f"{module}: say it in tests/README.md"


def test_no_line_is_about_modules_that_are_gone() -> None:
    for where, _ in ROW.findall(text()):
        assert (ROOT / where).exists(), where
