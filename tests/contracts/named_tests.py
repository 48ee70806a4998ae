"""Tests that a document or a list names: whether they are there, and what stands in them.

Files are parsed, never run. What a test says is its function with its decorators, and whatever of
its own module, or of another module of the tests, these name: a fixture is named by an argument.
"""

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.contracts.source_tree import ROOT, parse

TESTS = ROOT / "tests"
_Top = dict[str, ast.AST]


def is_there(test: str) -> bool:
    """Whether `folder/test_file.py::test_name` is a test."""
    file, _, name = test.partition("::")
    path = TESTS / file
    return path.is_file() and name.startswith("test_") and name in _tops(path)


def text_of(test: str) -> str:
    """Return the source of a test and of all that it names in the tests' modules."""
    file, _, name = test.partition("::")
    seen: dict[tuple[Path, str], str] = {}
    waiting = [(TESTS / file, name)]
    while waiting:
        place = waiting.pop()
        path, top = place
        node = _tops(path).get(top)
        if node is None or place in seen:
            continue
        if isinstance(node, ast.ImportFrom):
            waiting.append((ROOT / f"{(node.module or '').replace('.', '/')}.py", top))
            continue
        seen[place] = _source(path, node)
        parts = list(ast.walk(node))
        waiting += [(path, each.id) for each in parts if isinstance(each, ast.Name)]
        waiting += [(path, each.arg) for each in parts if isinstance(each, ast.arg)]
    return "\n".join(seen.values())


@cache
def _tops(path: Path) -> _Top:
    """Return what a module of the tests defines, and what it takes from others of them."""
    found: _Top = {}
    for node in parse(path).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for name in _names(targets)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            found |= {alias.name: node for alias in node.names if alias.asname is None}
    return found


def _names(targets: Sequence[ast.expr]) -> list[ast.Name]:
    return [node for each in targets for node in ast.walk(each) if isinstance(node, ast.Name)]


@cache
def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _source(path: Path, node: ast.AST) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorators)])  # pyright: ignore[reportAttributeAccessIssue] - every statement has one
    return "\n".join(_lines(path)[first - 1 : node.end_lineno])  # pyright: ignore[reportAttributeAccessIssue] - the same
