"""POST /v1/completions: continues a text, without a chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.chunks import Usage
from services.gateway.completion_answers import (
    TextCompletion,
    TextSseFormatter,
    text_completion,
    usage_by_prompt,
)
from services.gateway.completion_schemas import (
    CompletionRequest,
    as_chat,
    read_completion_request,
)
from services.gateway.openai_schemas import ImageUrl, UserMessage
from services.gateway.routes.api_document import answers, body_of
from services.gateway.serving import serve
from services.gateway.translate import CompletionBuilder, Origin, Target, generation_requests
from services.protocol.messages import Finished, GenerationRequest, ImageRef

router = APIRouter()

_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": body_of(CompletionRequest)}
}
_NAMES = {"messages": "prompt", "max_completion_tokens": "max_tokens", "top_logprobs": "logprobs"}


@router.post(
    "/v1/completions",
    summary="Continue a text",
    openapi_extra=_BODY_SCHEMA,
    responses=answers(TextCompletion, "The answer; events with `stream: true`", is_streamed=True),
)
async def create_completion(request: Request) -> Response:
    """Continue texts as they stand, whole or as a stream, as OpenAI's legacy API does."""
    return await serve(request, CompletionQuestion)


class CompletionQuestion:
    """A completion, read from its body; see `Question`."""

    __slots__ = ("_asked", "chat")

    needs = frozenset({"prompt"})
    names: Mapping[str, str] = _NAMES
    images: Sequence[tuple[ImageUrl, str]] = ()

    def __init__(self, body: object) -> None:
        self._asked = read_completion_request(body)
        self.chat = as_chat(self._asked)

    @property
    def num_prompts(self) -> int:
        """See `Question`."""
        return len(self._asked.prompts)

    def requests(
        self, refs: Sequence[ImageRef], origin: Origin, target: Target
    ) -> list[GenerationRequest]:
        """See `Question`: n for the first prompt, then n for the second."""
        made: list[GenerationRequest] = []
        for prompt in self._asked.prompts:
            chat = msgspec.structs.replace(self.chat, messages=[UserMessage(prompt)])
            made += generation_requests(chat, refs, origin, target)
        return [
            msgspec.structs.replace(each, is_raw=True, request_id=origin.id_of(index))
            for index, each in enumerate(made)
        ]

    def usage(self, ends: Mapping[int, Finished]) -> Usage:
        """See `Question`."""
        return usage_by_prompt(ends, self.chat.n or 1)

    def stream_format(self, request_id: str, created: int) -> TextSseFormatter:
        """See `Question`."""
        options = self.chat.stream_options
        include_usage = options is not None and options.include_usage
        return TextSseFormatter(request_id, self.chat.model, created, include_usage=include_usage)

    def whole(self, answers: CompletionBuilder, request_id: str, created: int) -> TextCompletion:
        """See `Question`."""
        usage = self.usage(dict(enumerate(answers.ends)))
        return text_completion(answers, request_id, self.chat.model, created, usage)
