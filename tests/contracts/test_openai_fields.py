"""The table of OpenAI's fields in docs/api.md against our structs and the SDK's own types."""

import re
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from openai.types import completion_create_params as legacy
from openai.types import embedding_create_params as embedding
from openai.types import file_create_params as file
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as response

from services.gateway import refused_fields
from services.gateway.completion_schemas import CompletionRequest
from services.gateway.embedding_schemas import EmbeddingRequest
from services.gateway.openai_schemas import ChatCompletionRequest
from services.gateway.response_schemas import ResponseRequest
from services.gateway.upload import FIELDS

TEXT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## OpenAI's fields\n")[2].partition("\n## ")[0]

SDK: dict[str, Any] = {
    "Chat completions": chat.CompletionCreateParamsStreaming,
    "Completions": legacy.CompletionCreateParamsStreaming,
    "Responses": response.ResponseCreateParamsStreaming,
    "Embeddings": embedding.EmbeddingCreateParams,
    "Files": file.FileCreateParams,
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "Chat completions": ChatCompletionRequest,
    "Completions": CompletionRequest,
    "Responses": ResponseRequest,
}
REASONS = {
    "Chat completions": refused_fields.CHAT,
    "Completions": refused_fields.COMPLETIONS,
    "Responses": refused_fields.RESPONSES,
}
OURS = {"top_k", "repetition_penalty", "min_tokens"}
"""Fields of our structs that OpenAI does not have."""


def table_of(api: str) -> dict[str, tuple[str, str]]:
    """Field, state and note of every row of an API's table."""
    text = SECTION.partition(f"### {api}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\|$", text, re.MULTILINE)
    found = {name: (state, note) for name, state, note in rows}
    assert len(found) == len(rows)
    return found


def names_with(api: str, state: str) -> set[str]:
    return {name for name, (said, _) in table_of(api).items() if said == state}


@pytest.mark.parametrize("api", SDK)
def test_every_field_of_the_sdk_has_a_row_and_a_state(api: str) -> None:
    table = table_of(api)

    assert set(table) == set(get_type_hints(SDK[api]))
    assert {state for state, _ in table.values()} <= {"acts", "refused", "ignored"}


@pytest.mark.parametrize("api", STRUCTS)
def test_what_acts_or_is_ignored_is_what_our_struct_accepts(api: str) -> None:
    accepted = set(STRUCTS[api].__struct_fields__) - OURS

    assert names_with(api, "acts") | names_with(api, "ignored") == accepted
    assert names_with(api, "ignored") == {"user"}


@pytest.mark.parametrize("api", REASONS)
def test_what_is_refused_has_the_reason_that_the_caller_is_told(api: str) -> None:
    table = table_of(api)

    assert {name: table[name][1] for name in names_with(api, "refused")} == REASONS[api]


def test_a_form_takes_every_field_of_the_sdk_with_its_parts() -> None:
    parts = get_type_hints(file.ExpiresAfter)

    assert names_with("Files", "acts") == {name.partition("[")[0] for name in FIELDS}
    assert {f"expires_after[{part}]" for part in parts} < FIELDS


def test_embeddings_are_read_in_full_and_refused_in_full() -> None:
    assert set(EmbeddingRequest.__struct_fields__) == set(table_of("Embeddings"))
    assert names_with("Embeddings", "refused") == set(table_of("Embeddings"))
