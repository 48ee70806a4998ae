"""OpenAI's embeddings as a msgspec struct, so that a bad body is told from a good one. Pure."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.gateway.openai_schemas import MAX_NAME_LENGTH, Text

Inputs = Annotated[list[Text], Meta(min_length=1, max_length=2048)]
"""The number: https://platform.openai.com/docs/api-reference/embeddings/create."""


class EmbeddingRequest(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of POST /v1/embeddings."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    input: Text | Inputs
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
