"""POST /v1/chat/completions: its bodies and answers. The way of a request: `serving.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.chunks import ChatCompletion, Usage
from services.gateway.openai_schemas import (
    ChatCompletionRequest,
    images_in,
    read_chat_request,
)
from services.gateway.routes.api_document import answers, body_of
from services.gateway.serving import serve
from services.gateway.sse import SseFormatter
from services.gateway.tool_calls import may_be_text
from services.gateway.tool_stream import ToolSseFormatter
from services.gateway.translate import (
    CompletionBuilder,
    Origin,
    Target,
    functions_of,
    generation_requests,
    usage_of,
)
from services.protocol.messages import Finished, GenerationRequest, ImageRef

router = APIRouter()

_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": body_of(ChatCompletionRequest)}
}


_NAMES: Mapping[str, str] = {}
_NAMES_WITH_TOOLS: Mapping[str, str] = {"response_format": "tools"}
"""With tools, the schema that a worker may refuse is theirs."""


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=_BODY_SCHEMA,
    responses=answers(ChatCompletion, "The answer; events with `stream: true`", is_streamed=True),
)
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation with images, whole or as a stream, as OpenAI's API does."""
    return await serve(request, ChatQuestion)


class ChatQuestion:
    """A chat completion, read from its body; see `Question`."""

    __slots__ = ("chat", "images", "names")

    needs: frozenset[str] = frozenset()
    num_prompts = 1

    def __init__(self, body: object) -> None:
        self.chat = read_chat_request(body)
        self.names = _NAMES_WITH_TOOLS if self.chat.tools else _NAMES
        self.images = list(images_in(self.chat.messages))

    def requests(
        self, refs: Sequence[ImageRef], origin: Origin, target: Target
    ) -> list[GenerationRequest]:
        """See `Question`."""
        return generation_requests(self.chat, refs, origin, target)

    def usage(self, ends: Mapping[int, Finished]) -> Usage:
        """See `Question`."""
        return usage_of(list(ends.values()))

    def stream_format(self, request_id: str, created: int) -> SseFormatter:
        """See `Question`."""
        options = self.chat.stream_options
        include_usage = options is not None and options.include_usage
        model = self.chat.model
        if not functions_of(self.chat):
            return SseFormatter(request_id, model, created, include_usage=include_usage)
        return ToolSseFormatter(
            request_id,
            model,
            created,
            include_usage=include_usage,
            may_be_text=may_be_text(self.chat.tool_choice),
        )

    def whole(self, answers: CompletionBuilder, request_id: str, created: int) -> ChatCompletion:
        """See `Question`."""
        logprobs = bool(self.chat.logprobs)
        calls = bool(functions_of(self.chat))
        return answers.build(request_id, self.chat.model, created, logprobs=logprobs, calls=calls)
