"""Ceilings on the size of modules and functions, and names that say nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.source_tree import EVERYTHING, parse, python_files, shown

MODULE_CEILING_LINES = 400
FUNCTION_CEILING_STATEMENTS = 40
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}

FILES = python_files(EVERYTHING)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_in(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def count_statements(function: Function) -> int:
    """Count statements, those of nested functions and classes aside (they count for themselves)."""
    count = 0
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        count += isinstance(node, ast.stmt)
        if not isinstance(node, Function | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return count


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_module_stays_below_its_ceiling(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())

    assert lines <= MODULE_CEILING_LINES, f"{shown(file)} has {lines} lines: find its second noun"


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_functions_stay_below_their_ceiling(file: Path) -> None:
    too_long = {
        function.name: count
        for function in functions_in(parse(file))
        if (count := count_statements(function)) > FUNCTION_CEILING_STATEMENTS
    }

    assert too_long == {}, f"{shown(file)}: more than {FUNCTION_CEILING_STATEMENTS} statements"


def test_every_init_module_is_empty() -> None:
    not_empty = [shown(f) for f in FILES if f.name == "__init__.py" and f.stat().st_size > 0]

    assert not_empty == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for file in python_files([f for f in EVERYTHING if f != "scripts"])}

    assert [shown(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty_names = [shown(f) for f in FILES if NAMES_THAT_SAY_NOTHING & set(f.stem.split("_"))]

    assert empty_names == []


def test_statements_of_nested_functions_count_for_themselves() -> None:
    tree = ast.parse("def outer():\n  a = 1\n  def inner():\n    b = 2\n    c = 3\n  return a\n")

    assert [count_statements(f) for f in functions_in(tree)] == [3, 2]
