"""POST /v1/chat/completions: the way of one request through the gateway."""

import asyncio
import time
from typing import Any, assert_never

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive

from services.gateway.access.expected_tokens import expected_tokens
from services.gateway.admission import admit
from services.gateway.body import read_json
from services.gateway.caller import caller_of
from services.gateway.chunks import ChatCompletion
from services.gateway.media.images import ImageInput
from services.gateway.openai_schemas import ChatCompletionRequest, read_chat_request
from services.gateway.replies import ClientGone, Ping, Reply, ReplyItem, error_of
from services.gateway.routes.api_document import answers, body_of
from services.gateway.sse import SseFormatter
from services.gateway.state import GatewayState, state_of
from services.gateway.streaming import ChatStream, record_ends
from services.gateway.translate import (
    CompletionBuilder,
    Origin,
    Target,
    generation_requests,
    image_urls,
)
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import Failed, Finished, ImageRef, Lane, Tokens

router = APIRouter()

LANE_HEADER = "x-galen-lane"

_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": body_of(ChatCompletionRequest)}
}


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=_BODY_SCHEMA,
    responses=answers(ChatCompletion, "The answer; events with `stream: true`", is_streamed=True),
)
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation with images, whole or as a stream, as OpenAI's API does."""
    state, caller = state_of(request), caller_of(request)
    # 1. Nothing is decoded, and no worker touched, before the request is admitted.
    state.check_open()
    lane = _lane(request)
    chat = read_chat_request(await read_json(request, state.settings))
    entry = admit(chat, state.catalogue)
    # 2. Images go to the store, once; the request only names them.
    inputs = [ImageInput(url, param) for url, param in image_urls(chat)]
    charge = await state.access.meter.begin(
        request.scope, caller, chat.model, expected_tokens(chat, len(inputs))
    )
    refs: list[ImageRef] = []
    if inputs:
        refs = await state.images.resolve(
            inputs,
            tenant_id=caller.tenant_id,
            recipe=entry.card.image_recipe,
            max_images=entry.card.max_images,
        )
    # 3. One generation per choice goes to the queue; a client that leaves takes it back.
    origin = Origin(
        request.scope["galen.request_id"], state.dispatcher.gateway_id, caller.tenant_id, lane
    )
    target = Target(entry.card.id, entry.adapter.name if entry.adapter is not None else None)
    reply = charge.reply = Reply(
        stream=bool(chat.stream), timeout_s=state.settings.request_timeout_s
    )
    stream: ChatStream | None = None
    try:
        await state.dispatcher.submit(reply, generation_requests(chat, refs, origin, target))
        reply.watch = asyncio.create_task(_watch_client(request.receive, reply))
        if not chat.stream:
            return await _answer(request, state, reply, chat, origin.request_id)
        stream = await _stream(state, reply, chat, origin.request_id)
        return stream
    finally:
        if stream is None:  # a stream ends its reply itself
            state.end(reply)


async def _stream(
    state: GatewayState, reply: Reply, chat: ChatCompletionRequest, request_id: str
) -> ChatStream:
    """Wait for the first event, so that an early error has its status; then stream."""
    first = await reply.take()
    _raise_failure(first)
    include_usage = chat.stream_options is not None and chat.stream_options.include_usage
    formatter = SseFormatter(request_id, chat.model, int(_now()), include_usage=include_usage)
    return ChatStream(state, reply, first, formatter, model=chat.model, include_usage=include_usage)


async def _answer(
    request: Request,
    state: GatewayState,
    reply: Reply,
    chat: ChatCompletionRequest,
    request_id: str,
) -> Response:
    """Collect all choices into one body."""
    builder = CompletionBuilder(chat.n or 1)
    while not builder.is_complete:
        items = await reply.take()
        _raise_failure(items)
        if reply.abandoned:
            return Response(status_code=499)
        for choice, item in items:
            match item:
                case Tokens():
                    builder.add_tokens(choice, item)
                case Finished():
                    builder.add_end(choice, item)
                case Failed() | Ping() | ClientGone():
                    pass
                case _:
                    assert_never(item)
    fields = record_ends(state.metrics, chat.model, builder.ends)
    state.metrics.duration.labels(chat.model).observe(time.monotonic() - reply.received)
    request.scope["galen.fields"] = {"model": chat.model, "stream": False, **fields}
    body = builder.build(request_id, chat.model, int(_now()), logprobs=bool(chat.logprobs))
    return Response(msgspec.json.encode(body), media_type="application/json")


def _raise_failure(items: list[ReplyItem]) -> None:
    for _, item in items:
        if isinstance(item, Failed):
            raise error_of(item)


async def _watch_client(receive: Receive, reply: Reply) -> None:
    """Abandon the reply when its client leaves."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            reply.abandon()
            return


def _lane(request: Request) -> Lane:
    name = request.headers.get(LANE_HEADER, "interactive")
    if name == "interactive" or name == "batch":  # noqa: PLR1714 - narrows the type
        return name
    raise RequestError(
        ErrorCode.INVALID_VALUE,
        f"the header {LANE_HEADER} is {name[:40]!r}; it may be interactive or batch",
        param=LANE_HEADER,
    )


def _now() -> float:
    """Seconds of the calendar, for `created`."""
    return time.time()  # noqa: TID251 - a date for clients, no duration
