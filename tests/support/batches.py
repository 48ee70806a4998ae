"""Batches whose every answer is known beforehand, so that a lost or doubled one is seen."""

import asyncio
import json
from collections import Counter
from typing import Any

from openai import AsyncOpenAI

ENDED = {"completed", "failed", "expired", "cancelled"}


def line_of(number: int, model: str = "fake", delay_ms: int = 10) -> dict[str, Any]:
    """A request whose answer tells which it is, by its length."""
    prompt = f"[[n={_length(number)} d={delay_ms}]] question {number}"
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": prompt}]},
    }


def input_of(num_lines: int, **options: Any) -> bytes:
    return b"".join(json.dumps(line_of(i, **options)).encode() + b"\n" for i in range(num_lines))


def answer_to(number: int) -> str:
    return "".join(f"zq{i:04d} " for i in range(_length(number)))


def _length(number: int) -> int:
    return 3 + number % 11


async def start_batch(client: AsyncOpenAI, content: bytes) -> str:
    """Upload an input and create its batch; returns its id."""
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return batch.id


async def ended_batch(client: AsyncOpenAI, batch_id: str, limit_s: float) -> Any:
    """Wait for a batch's end; the gateway may be away meanwhile."""
    async with asyncio.timeout(limit_s):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ENDED:
                return batch
            await asyncio.sleep(0.1)


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a result file; none where there is no file."""
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(line) for line in content.text.splitlines()]


async def check_complete(client: AsyncOpenAI, batch: Any, num_lines: int) -> None:
    """Every line is answered once, rightly, and in its place."""
    assert batch.status == "completed", batch
    output = await lines_of(client, batch.output_file_id)
    errors = await lines_of(client, batch.error_file_id)
    assert errors == []
    twice = [name for name, n in Counter(row["custom_id"] for row in output).items() if n > 1]
    assert twice == []
    assert [row["custom_id"] for row in output] == [f"line-{i}" for i in range(num_lines)]
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in output]
    assert said == [answer_to(i) for i in range(num_lines)]
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (num_lines, num_lines, 0)
