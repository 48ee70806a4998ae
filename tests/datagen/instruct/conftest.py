"""The figures that these tests measure go where those of the fault tests go."""

import pytest

from tests.support.measurements import MEASUREMENTS, Measurements


@pytest.fixture
def measured(pytestconfig: pytest.Config) -> Measurements:
    return pytestconfig.stash[MEASUREMENTS]
