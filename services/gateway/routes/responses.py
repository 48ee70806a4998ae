"""POST /v1/responses: answers a conversation as OpenAI's newer API does; nothing is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.chunks import Usage, logprobs_content
from services.gateway.response_answers import (
    ResponseObject,
    ResponseOutputText,
    empty_response,
    ended,
    message_of,
)
from services.gateway.response_schemas import (
    ResponseRequest,
    as_chat,
    asked_images,
    read_response_request,
)
from services.gateway.response_stream import ResponseSseFormatter
from services.gateway.response_tool_stream import ToolResponseSseFormatter
from services.gateway.response_tools import call_item
from services.gateway.routes.api_document import answers, body_of
from services.gateway.serving import serve
from services.gateway.tool_calls import may_be_text
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
    "requestBody": {"required": True, "content": body_of(ResponseRequest)}
}
_NAMES = {
    "messages": "input", "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens", "response_format": "text.format", "logprobs": "include",
}  # fmt: skip

_NAMES_WITH_TOOLS = {**_NAMES, "response_format": "tools"}
"""With tools, the schema that a worker may refuse is theirs."""


@router.post(
    "/v1/responses",
    summary="Answer a conversation, in the form of OpenAI's responses",
    openapi_extra=_BODY_SCHEMA,
    responses=answers(ResponseObject, "The answer; events with `stream: true`", is_streamed=True),
)
async def create_response(request: Request) -> Response:
    """Answer a conversation with images, whole or as a stream of OpenAI's response events."""
    return await serve(request, ResponseQuestion)


class ResponseQuestion:
    """A response to be made, read from its body; see `Question`."""

    __slots__ = ("_asked", "chat", "images", "names")

    needs: frozenset[str] = frozenset()
    num_prompts = 1

    def __init__(self, body: object) -> None:
        self._asked = read_response_request(body)
        self.chat = as_chat(self._asked)
        self.names: Mapping[str, str] = _NAMES_WITH_TOOLS if self.chat.tools else _NAMES
        self.images = asked_images(self._asked)

    def requests(
        self, refs: Sequence[ImageRef], origin: Origin, target: Target
    ) -> list[GenerationRequest]:
        """See `Question`."""
        return generation_requests(self.chat, refs, origin, target)

    def usage(self, ends: Mapping[int, Finished]) -> Usage:
        """See `Question`."""
        return usage_of(list(ends.values()))

    def stream_format(self, request_id: str, created: int) -> ResponseSseFormatter:
        """See `Question`."""
        empty = empty_response(self._asked, request_id, created)
        if not functions_of(self.chat):
            return ResponseSseFormatter(empty)
        return ToolResponseSseFormatter(empty, may_be_text=may_be_text(self.chat.tool_choice))

    def whole(self, answers: CompletionBuilder, request_id: str, created: int) -> ResponseObject:
        """See `Question`."""
        (answer,) = answers.answers()
        empty = empty_response(self._asked, request_id, created)
        call = call_item(request_id, answer.text) if functions_of(self.chat) else None
        part = ResponseOutputText(answer.text, logprobs_content(answer.logprobs))
        item = call or message_of(request_id, answer.finished.finish_reason, part)
        return ended(empty, item, usage_of([answer.finished]))
