"""`test_openapi_conformance.py` with many requests a route.

Collected with `--long` only: to make its examples takes seconds in each process of tests.
"""

import pytest
import schemathesis

from tests.end_to_end.stack import RunningStack
from tests.end_to_end.test_openapi_conformance import answer_of, examples, open_stack, schema

__all__ = ["open_stack"]  # the fixture
pytestmark = [pytest.mark.e2e, pytest.mark.long]


@schema.parametrize()
@examples(400)
def test_many_answers_are_those_of_the_document(
    case: schemathesis.Case, open_stack: RunningStack
) -> None:
    answer_of(case, open_stack)
