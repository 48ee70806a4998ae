"""One question asked, and the answer as it comes: what the chat and the comparison share.

What does *not* live here: the components that show it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from services.ui.conversation import Conversation, Turn, sent_messages
from services.ui.gateway_client import Gateway, Sampling
from services.ui.pictures import data_url
from services.ui.problems import AWAY, CUT_OFF, GatewayError, Problem

_SHOW_EVERY_S = 0.05
"""Twenty pictures of a growing answer a second; more costs the browser, and nobody sees it."""


async def answer_last(
    gateway: Gateway, model: str, conversation: Conversation, sampling: Sampling
) -> AsyncGenerator[Turn]:
    """Yield the last turn as its answer grows; the last one is complete, or has failed.

    Closing the generator ends the request at the gateway.
    """
    turn = replace(conversation.turns[-1], state="streaming", model=model, problem=None)
    yield turn
    try:
        urls = await asyncio.to_thread(_urls, conversation)
    except OSError:
        problem = Problem("An image of this conversation is gone.", "Begin a new one.")
        yield replace(turn, state="failed", problem=problem)
        return
    shown_s = 0.0
    try:
        messages = sent_messages(conversation, urls)
        async with aclosing(gateway.answer(model, messages, sampling)) as pieces:
            async for piece in pieces:
                turn = replace(
                    turn,
                    answer=turn.answer + piece.text,
                    request_id=piece.request_id or turn.request_id,
                    finish_reason=piece.finish_reason or turn.finish_reason,
                )
                now = time.monotonic()
                if piece.text and now - shown_s >= _SHOW_EVERY_S:
                    shown_s = now
                    yield turn
    except GatewayError as error:
        is_cut = error.problem is AWAY and turn.answer
        yield replace(turn, state="failed", problem=CUT_OFF if is_cut else error.problem)
        return
    if not turn.finish_reason:
        yield replace(turn, state="failed", problem=CUT_OFF)
        return
    yield replace(turn, state="complete")


def _urls(conversation: Conversation) -> Mapping[Path, str]:
    files = {each.file for turn in conversation.turns for each in turn.attachments}
    return {file: data_url(file) for file in files}
