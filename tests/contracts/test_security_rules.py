"""Calls that may run what a file says, or fetch one, are looked for in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.protocol.jobs import celery_settings
from tests.contracts.source_tree import PRODUCT, parse, python_files, shown
from tests.contracts.test_repository import pyproject

RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
LOADS_OBJECTS = {
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.load", "np.load", "os.system",
    "os.popen",
}  # fmt: skip
FILES = python_files(PRODUCT)


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Yield calls that run texts, load objects, or let a checkpoint's or a shell's code run."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if name in RUNS_TEXT or (name in LOADS_OBJECTS and given.get("allow_pickle") != "False"):
            yield name
        elif name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only"
        if given.get("trust_remote_code", "False") != "False":
            yield "trust_remote_code"
        if given.get("shell", "False") != "False":
            yield "shell"


def hub_calls(tree: ast.AST) -> Iterator[str]:
    """Yield calls that may fetch a model."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        spread = {ast.unparse(each.value) for each in call.keywords if each.arg is None}
        is_local = given.get("local_files_only") == "True" or "_SAFE" in spread
        if name.endswith(".from_pretrained") and not is_local:
            yield ast.unparse(call)


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_nothing_that_may_run_a_file_is_called(file: Path) -> None:
    assert list(unsafe_calls(parse(file))) == []


@pytest.mark.parametrize("file", python_files(["services", "training"]), ids=shown)
def test_workers_ask_no_hub(file: Path) -> None:
    assert list(hub_calls(parse(file))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "exec(text)", "yaml.load(file)", "np.load(file)", "torch.load(file)",
        "torch.load(file, weights_only=False)", "f(trust_remote_code=True)", "run('a', shell=True)",
    ],
)  # fmt: skip
def test_an_unsafe_call_is_noticed(line: str) -> None:
    assert list(unsafe_calls(ast.parse(line)))
    assert not list(unsafe_calls(ast.parse("model.eval(); re.compile('a'); subprocess.run(['a'])")))


def test_a_fetching_call_is_noticed() -> None:
    assert list(hub_calls(ast.parse("A.from_pretrained('a')")))
    assert not list(hub_calls(ast.parse("A.from_pretrained('a', local_files_only=True)")))


def test_tasks_are_json() -> None:
    settings = celery_settings("redis://localhost")

    assert settings["accept_content"] == ["json"]
    assert settings["task_serializer"] == settings["result_serializer"] == "json"
    assert settings["result_backend"] is None


def test_lint_looks_for_unsafe_calls() -> None:
    lint: dict[str, Any] = pyproject()["tool"]["ruff"]["lint"]

    assert "S" in lint["select"]
    unheeded = {rule for rule in lint["ignore"] if rule.startswith("S1")}
    for places, rules in lint["per-file-ignores"].items():
        if not places.startswith(("tests/", "benchmarks/", "scripts/")):
            unheeded |= {rule for rule in rules if rule == "S" or rule.startswith("S1")}
    assert unheeded <= {"S105", "S106"}  # "bos_token" is no password
