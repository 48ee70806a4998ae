"""docs/api.md against the code: its parameters, limits, routes and error table."""

import re
from pathlib import Path

import pytest

from services.gateway import openai_schemas as schemas
from services.gateway.access.parts import make_access
from services.gateway.error_handlers import status_and_type
from services.gateway.http_protocol import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES
from services.gateway.main import create_app
from services.gateway.media.data_url import MAX_IMAGE_BYTES
from services.gateway.media.decoder import MAX_IMAGE_PIXELS
from services.gateway.media.image_format import MAX_WEBP_PIXELS
from services.gateway.media.images import ImageLimits
from services.gateway.metrics import GatewayMetrics
from services.gateway.serving import LANE_HEADER
from services.gateway.settings import GatewaySettings
from services.gateway.strict_json import MAX_DEPTH, MAX_VALUES
from services.protocol.errors import ErrorCode
from services.store.settings import StoreSettings

ACCESS = make_access(GatewaySettings(), StoreSettings())

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")


def table_under(title: str) -> list[list[str]]:
    """The cells of the first table of a section, without its head."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    first = rows[: next((i for i, r in enumerate(rows[2:], 2) if set(r) <= set("|-")), len(rows))]
    return [[cell.strip() for cell in row.split("|")] for row in first[2:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_error_table_is_that_of_the_code() -> None:
    documented = {names_in(row[0])[0]: (int(row[1]), row[2]) for row in table_under("Errors")}

    assert documented == {code.value: status_and_type(code) for code in ErrorCode}


def test_parameters_are_those_of_the_schema() -> None:
    documented = [
        name for row in table_under("Parameters of a chat completion")
        if row[0].startswith("`") for name in names_in(row[0])
    ]  # fmt: skip
    engines = {"transformers", "fake"}

    assert set(documented) - engines == set(schemas.ChatCompletionRequest.__struct_fields__)
    assert len(documented) == len(set(documented))


def test_routes_are_those_of_the_application() -> None:
    documented = {names_in(row[0])[0] for row in table_under("Routes")}
    paths = create_app(GatewaySettings(), ACCESS, GatewayMetrics()).openapi()["paths"]

    described = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}
    assert documented == described | {"GET /openapi.json"}


def test_headers_are_named() -> None:
    headers = {names_in(row[0])[0] for row in table_under("Headers")}

    assert {"x-request-id", "retry-after", "x-should-retry: false", LANE_HEADER} <= headers


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("at most {} MiB", GatewaySettings.model_fields["max_body_bytes"].default >> 20),
        ("more than {} levels", MAX_DEPTH),
        ("more than {} values", MAX_VALUES),
        ("at most {} headers", MAX_HEADERS),
        ("of together {} KiB", MAX_HEADER_BYTES >> 10),
        ("a URL of at most {} KiB", MAX_URL_BYTES >> 10),
        ("1 to {}; roles", schemas.MAX_MESSAGES),
        ("1 to {}; one of the two", schemas.MAX_TOKENS),
        ("| `n` | 1 to {} |", schemas.MAX_CHOICES),
        ("a string or 1 to {},", schemas.MAX_STOPS),
        ("of 1 to {} characters", schemas.MAX_STOP_LENGTH),
        ("at most {} Mi characters", schemas.MAX_TEXT_LENGTH >> 20),
        ("| bytes of one image | {} MiB |", MAX_IMAGE_BYTES >> 20),
        ("| pixels of one image | {} million |", MAX_IMAGE_PIXELS // 10**6),
        ("| pixels of one WebP image | {} million |", MAX_WEBP_PIXELS // 10**6),
        ("| images of one request | {} ", ImageLimits().max_images),
        ("each time | {} million |", ImageLimits().max_total_pixels // 10**6),
    ],
)
def test_limits_are_those_of_the_code(words: str, number: int) -> None:
    assert words.format(number) in TEXT
