"""Requests made from our own OpenAPI document, good ones and bad ones, to the running platform.

No answer is a server error, and each has a status, a content type and a body that the document
names. A few requests a route; many: `test_openapi_at_length.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.gateway.access.parts import make_access
from services.gateway.main import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.store.settings import StoreSettings
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack, running_stack

pytestmark = pytest.mark.e2e

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
document = create_app(
    GatewaySettings(), make_access(GatewaySettings(), StoreSettings()), GatewayMetrics()
).openapi()
schema = schemathesis.openapi.from_dict(document)
ADMIN_KEY = "the-key-of-the-openapi-tests"
"""It opens every route: keys are made and revoked, workers looked for, models loaded in vain."""


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A platform of its own: what is made there may be anything."""
    folder = tmp_path_factory.mktemp("openapi-stack")
    gateway = {"ADMIN_KEY": ADMIN_KEY}
    with running_stack(
        folder, model=FAKE_MODEL, slots=128, gateway=gateway, key=ADMIN_KEY
    ) as stack:
        yield stack


def answer_of(case: schemathesis.Case, stack: RunningStack) -> None:
    """Send a request, most of them to a model that there is, and check the answer."""
    if isinstance(case.body, dict):
        model = case.body.get("model")
        if isinstance(model, str) and len(model) > 1:
            case.body["model"] = stack.model
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    case.call_and_validate(base_url=stack.base_url, checks=CHECKS, headers=headers)


def examples(most: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=most,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


@schema.parametrize()
@examples(12)
def test_answers_are_those_of_the_document(
    case: schemathesis.Case, open_stack: RunningStack
) -> None:
    answer_of(case, open_stack)
