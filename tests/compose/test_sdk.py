"""The conformance tests of the OpenAI SDK, on the containers.

Those which ask the fake engine alone; what needs a model asks the miniature, in `test_work.py`.
"""

import inspect
from collections.abc import Callable
from typing import Any

from tests.end_to_end import (
    test_sdk_completions,
    test_sdk_conformance,
    test_sdk_errors,
    test_sdk_models,
    test_sdk_responses,
    test_sdk_sampling,
    test_sdk_tools,
)

_MODULES = (
    test_sdk_completions,
    test_sdk_conformance,
    test_sdk_errors,
    test_sdk_models,
    test_sdk_responses,
    test_sdk_sampling,
    test_sdk_tools,
)
_HERE = {"fake_client", "async_fake_client"}
_OF_A_STACK_WITH_ONE_MODEL = {
    "test_models_are_listed_and_described",
    "test_async_client_lists_models_and_gets_both_kinds_of_answers",
    "test_listed_and_described_are_the_same",
}
"""Here are two models; `test_work.py` lists them."""


def _asks_the_fake_engine(function: Callable[..., Any]) -> bool:
    marks = getattr(function, "pytestmark", [])
    parametrized = {
        name.strip()
        for mark in marks
        if mark.name == "parametrize"
        for name in (mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0])
    }
    wanted = set(inspect.signature(function).parameters) - parametrized
    return bool(wanted) and wanted <= _HERE


_TAKEN = {
    f"{name}_of_{module.__name__.rpartition('.test_')[2]}": value
    for module in _MODULES
    for name, value in vars(module).items()
    if name.startswith("test_")
    and inspect.isfunction(value)
    and name not in _OF_A_STACK_WITH_ONE_MODEL
    and _asks_the_fake_engine(value)
}
globals().update(_TAKEN)


def test_enough_of_them_are_here() -> None:
    assert len(_TAKEN) >= 20
