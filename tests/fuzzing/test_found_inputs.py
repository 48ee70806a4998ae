"""Inputs that once were findings: each door now answers them as it documents.

The inputs lie in `inputs/`, named by their door; large ones are drawn by the tests of the door.
"""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzzing.seeds import SEEDS
from tests.fuzzing.targets import TARGETS

INPUTS = sorted((Path(__file__).parent / "inputs").iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_what_was_found_is_answered(path: Path):
    (target,) = (each for each in TARGETS.values() if path.name.startswith(each.name))
    with suppress(*target.expected):
        target.enter(path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_first_inputs_pass_the_door_or_are_refused(name: str):
    target, num_passed = TARGETS[name], 0
    for file in SEEDS[name]():
        with suppress(*target.expected):
            target.enter(file[: target.max_bytes])
            num_passed += 1
    assert num_passed > 0
