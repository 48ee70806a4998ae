"""The way of one request through the gateway, the same for every API that generates.

Admitted, its images in the store, its generations in the queue, its answer collected or streamed.
What does *not* live here: what an API's bodies and answers look like (`questions.py`).
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, assert_never

import msgspec
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive

from services.gateway.access.expected_tokens import expected_tokens
from services.gateway.admission import admit, check_images, kept_room
from services.gateway.audit import Asked
from services.gateway.body import read_json
from services.gateway.caller import Caller, caller_of
from services.gateway.image_inputs import PREPROCESS_HEADER, image_inputs, preprocess_header
from services.gateway.media.images import ImageInput
from services.gateway.questions import Question, renamed
from services.gateway.replies import ClientGone, Ping, Reply, ReplyItem, error_of
from services.gateway.state import GatewayState, span_of, state_of
from services.gateway.streaming import AnswerStream, record_ends
from services.gateway.translate import CompletionBuilder, Origin, Target
from services.protocol.errors import ErrorCode, GalenError, RequestError
from services.protocol.messages import Failed, Finished, ImageRef, Lane, ModelCard, Tokens
from services.protocol.request_queue import LanePlace

LANE_HEADER = "x-galen-lane"


async def serve(request: Request, read: Callable[[Any], Question]) -> Response:
    """Answer a request, whole or as a stream.

    Args:
        read: makes a question of the body, any JSON; raises RequestError.
    """
    state, caller = state_of(request), caller_of(request)
    # 1. Nothing is decoded, and no worker touched, before the request is admitted.
    state.check_open()
    state.audit.check()
    lane = _lane(request)
    with span_of(request).child("read request"):
        question = read(await read_json(request, state.settings))
    try:
        return await _serve(request, state, caller, lane, question)
    except GalenError as error:
        raise renamed(error, question.names) from None


async def _serve(
    request: Request, state: GatewayState, caller: Caller, lane: Lane, question: Question
) -> Response:
    span = span_of(request)
    with span.child("admission"):
        entry = admit(question.chat, state.catalogue, question.needs)
        asked = request.scope["galen.asked"] = Asked(entry, question.chat)
        charge = await state.access.meter.begin(
            request.scope,
            caller,
            question.chat.model,
            expected_tokens(question.chat, len(question.images), entry.card, question.num_prompts),
        )
        if state.moderation is not None:
            await state.moderation.check(question.chat)
    # 2. Images go to the store, once; the request only names them.
    inputs: list[ImageInput] = []
    refs: list[ImageRef] = []
    if question.images:
        state.memory.check_large()
        with span.child("decode images", {"galen.images": len(question.images)}):
            inputs, refs = await _stored(state, caller, lane, question, entry.card)
    # 3. One generation per choice goes to the queue; a client that leaves takes it back.
    origin = Origin(
        request.scope["galen.request_id"], state.dispatcher.gateway_id, caller.tenant_id, lane
    )
    target = Target(entry.card.id, entry.adapter.name if entry.adapter is not None else None)
    is_streamed = bool(question.chat.stream)
    reply = charge.reply = Reply(
        stream=is_streamed,
        timeout_s=state.settings.request_timeout_s,
        num_prompts=question.num_prompts,
    )
    reply.span = span
    stream: AnswerStream | None = None
    try:
        requests = question.requests(refs, origin, target)
        first_choices = requests[:: len(requests) // question.num_prompts]
        asked.see([each for one in first_choices for each in one.messages], refs)
        await state.dispatcher.submit(reply, requests)
        reply.watch = asyncio.create_task(_watch_client(request.receive, reply))
        if is_streamed:
            response = stream = await _stream(state, reply, question, origin.request_id)
        else:
            response = await _answer(request, state, reply, question, origin.request_id)
        if inputs:
            response.headers[PREPROCESS_HEADER] = preprocess_header(inputs)
        return response
    finally:
        if stream is None:  # a stream ends its reply itself
            state.end(reply)


async def _stored(
    state: GatewayState, caller: Caller, lane: Lane, question: Question, card: ModelCard
) -> tuple[list[ImageInput], list[ImageRef]]:
    """Bring a request's images into the store, in which they stand when this returns.

    There is room in the queue for it before anything is fetched or decoded. What can be seen to be
    wrong without fetching is told before that: a full queue does not hide it.
    """
    asked, sources, most = question.images, state.image_sources, card.max_images
    room = kept_room(state, LanePlace(card.id, lane, caller.tenant_id))
    async with AsyncExitStack() as stack:
        if is_elsewhere := sources.must_bring(asked, most):
            await stack.enter_async_context(room)
        inputs = image_inputs(
            await sources.brought(asked, caller, most), card, caller, state.settings
        )
        check_images(inputs, question.chat, card, state.images.limits)
        if not is_elsewhere:
            await stack.enter_async_context(room)
        refs = await state.images.resolve(inputs, tenant_id=caller.tenant_id, max_images=most)
    return inputs, refs


async def _stream(
    state: GatewayState, reply: Reply, question: Question, request_id: str
) -> AnswerStream:
    """Wait for the first event, so that an early error has its status; then stream."""
    first = await reply.take()
    _raise_failure(first)
    form = question.stream_format(request_id, int(_now()))
    return AnswerStream(state, reply, first, form, question)


async def _answer(
    request: Request, state: GatewayState, reply: Reply, question: Question, request_id: str
) -> Response:
    """Collect all choices into one body."""
    builder = CompletionBuilder(len(reply.tickets))
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
    model = question.chat.model
    ends = builder.ends
    fields = record_ends(state.metrics, model, ends, question.usage(dict(enumerate(ends))))
    state.metrics.duration.labels(model).observe(time.monotonic() - reply.received)
    request.scope["galen.fields"] = {"model": model, "stream": False, **fields}
    body = question.whole(builder, request_id, int(_now()))
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
