import json
import time

import pytest

from services.worker.engines import schema_check
from services.worker.engines.schema_check import CPU_LIMIT_S, problem_of

MANY_PATTERNS = {
    "allOf": [
        {"type": "string", "pattern": f".*[a-{chr(98 + i)}].{{{i + 5}}}x.*"} for i in range(20)
    ]
}
MANY_ARRAYS = {
    "type": "object",
    "properties": {
        f"p{i}": {"type": "array", "items": {"maxLength": 10 + i}, "maxItems": 10 + i}
        for i in range(600)
    },
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"enum": [f"finding {i}" for i in range(2000)]},
        {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"type": "string", "pattern": "^(a+)+$"},
    ],
)
def test_schemas_of_every_day_compile(schema: dict) -> None:
    assert problem_of(json.dumps(schema)) == ""


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("[1]", "no JSON object"),
        ("{", "no JSON object"),
        ('{"type": "nothing"}', "Invalid type"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"$ref": "http://127.0.0.1/schema"}', "not present"),
        ('{"type": "object", "x-guidance": {"lenient": true}}', "x-guidance"),
        (json.dumps(MANY_ARRAYS), "too big"),
    ],
)
def test_a_schema_that_does_not_compile_is_told_why(schema: str, reason: str) -> None:
    assert reason in problem_of(schema)


def test_a_schema_that_would_never_compile_is_given_up() -> None:
    begun = time.monotonic()
    assert "too long" in problem_of(json.dumps(MANY_PATTERNS))
    assert time.monotonic() - begun < schema_check.WALL_LIMIT_S + 1
    assert CPU_LIMIT_S < schema_check.WALL_LIMIT_S
