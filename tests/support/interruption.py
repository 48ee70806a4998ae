"""Answers of a real engine whose process is killed in the middle, beside the same uninterrupted.

Greedy and sampled, with and without images, one choice and several, all of them under way at once.
"""

import asyncio
import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from tests.support.stack import Stack
from tests.support.waiting import eventually
from tests.worker.engine_harness import picture

MODEL = "tiny"
MAX_TOKENS = 400
SHOWN_TOKENS = 20


@dataclass(slots=True)
class Answer:
    """What a client has been shown of one request, by choice."""

    request_id: str = ""
    texts: Counter[int] = field(default_factory=Counter)  # number of chunks with text
    text: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    completion_tokens: int = 0


def real_stack(folder: Path, engine: str, checkpoint: Path, **more: str) -> Stack:
    """Two workers of one model, each with an engine of its own on one core."""
    settings = {
        "ENGINE": engine,
        "MODEL_ID": MODEL,
        "MODEL_PATH": str(checkpoint),
        "DTYPE": "float32",
        "DEVICE": "cpu",
        "NUM_THREADS": "1",
        **more,
    }
    named = {f"GALEN_WORKER_{name}": value for name, value in settings.items()}
    return Stack(folder, num_workers=2, durable=False, settings=named, start_limit_s=150.0)


def questions() -> list[dict[str, Any]]:
    """Requests whose answers are long and always the same.

    A draw within rounding of the border between two tokens may fall on either side after a
    prefill (one in some thousand does): the seeds here have none among their draws.
    """
    sampled = {"temperature": 1.0, "top_p": 0.95, "seed": 11}
    return [
        {"messages": _messages("What does this image show?", 1), "temperature": 0},
        {"messages": _messages("Describe the finding.", 0), "temperature": 0, "n": 2},
        {"messages": _messages("On which side does it lie?", 1), **sampled, "n": 2},
        {"messages": _messages("Why?", 0), **sampled, "frequency_penalty": 0.5},
    ]


def _messages(text: str, num_images: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for number in range(num_images):
        png = io.BytesIO()
        picture(number).save(png, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": parts}]


async def ask(client: AsyncOpenAI, question: dict[str, Any], answer: Answer) -> Answer:
    """Stream one request into `answer`; raises what the client raises."""
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, stream=True, stream_options={"include_usage": True},
        max_tokens=MAX_TOKENS, extra_body={"min_tokens": MAX_TOKENS // 2}, **question,
    )  # fmt: skip
    answer.request_id = raw.headers["x-request-id"]
    async for chunk in raw.parse():
        for choice in chunk.choices:
            answer.texts[choice.index] += bool(choice.delta.content)
            shown = answer.text.get(choice.index, "")
            answer.text[choice.index] = shown + (choice.delta.content or "")
            if choice.finish_reason is not None:
                answer.reasons[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            answer.completion_tokens = chunk.usage.completion_tokens
    return answer


async def assert_answers_survive_a_kill(stack: Stack) -> None:
    """Ask everything twice; the second time the busier engine dies when all have begun."""
    base_url = f"http://127.0.0.1:{stack.port}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        asked = questions()
        whole = [await ask(client, question, Answer()) for question in asked]
        lost_before = await stack.metric("galen_gateway_lost_attempts_total")
        answers = [Answer() for _ in asked]
        asking = asyncio.gather(*(ask(client, *pair) for pair in zip(asked, answers, strict=True)))
        await eventually(lambda: _all_have_begun(asked, answers), 30.0, "tokens of all choices")
        stack.kill_engine(stack.busiest())
        open_at_the_kill = [not answer.reasons for answer in answers]
        await asyncio.wait_for(asking, 100.0)
        lost = await stack.metric("galen_gateway_lost_attempts_total") - lost_before
    assert all(open_at_the_kill), "an answer was over before its engine died"
    assert lost >= 1, "the engine that died held nothing"
    for uninterrupted, answer in zip(whole, answers, strict=True):
        assert answer.text == uninterrupted.text
        assert answer.reasons == uninterrupted.reasons
        assert answer.completion_tokens == uninterrupted.completion_tokens


def _all_have_begun(asked: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> bool:
    return all(
        sum(count >= SHOWN_TOKENS for count in answer.texts.values()) == question.get("n", 1)
        for question, answer in zip(asked, answers, strict=True)
    )
