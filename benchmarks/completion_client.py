"""Streams chat completions from any OpenAI server and clocks them; cheap enough for two cores.

Tokens are counted by the server's own usage, so that servers that put several into one event are
not wronged. Plain sockets: a client library costs more per token than some servers do.
"""

import asyncio
import base64
import io
import re
import statistics
import time
from collections.abc import Sequence

import msgspec
import numpy as np
from PIL import Image

from benchmarks.processes import BenchError

_TEXT = re.compile(rb'"content":\s?"[^"]')
_USAGE = re.compile(rb'"completion_tokens":\s?(\d+)')
_DONE = b"data: [DONE]"
_TAIL_BYTES = 4096
QUESTION = "What does this image show? Describe the finding and say on which side it lies."


class StreamedLoad(msgspec.Struct, frozen=True):
    """What came of a load.

    Args:
        tok_s: tokens of all answers over the time from the first request to the last token.
        ttft_ms: median time until the first text.
    """

    tok_s: float
    ttft_ms: float
    num_tokens: int
    wall_s: float


def chat_body(
    model: str, seed: int, image_px: int, num_tokens: int, question: str = QUESTION
) -> bytes:
    """Return a streamed request with the seed's image and an answer of exactly `num_tokens`."""
    noise = np.random.default_rng(seed).integers(0, 256, (image_px, image_px, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    return msgspec.json.encode(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": num_tokens,
            "min_tokens": num_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def stream_all(port: int, bodies: Sequence[bytes], concurrency: int) -> StreamedLoad:
    """Send all requests, `concurrency` at once.

    Raises:
        BenchError: one was not answered, or not to its end.
    """
    return asyncio.run(_stream_all(port, bodies, concurrency))


async def _stream_all(port: int, bodies: Sequence[bytes], concurrency: int) -> StreamedLoad:
    waiting = iter(bodies)
    answers: list[tuple[float, int]] = []

    async def client() -> None:
        answers.extend([await stream_one(port, body) for body in waiting])

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client())
    wall_s = time.monotonic() - began_s
    num_tokens = sum(count for _, count in answers)
    ttft_ms = statistics.median(ttft_s for ttft_s, _ in answers) * 1e3
    return StreamedLoad(num_tokens / wall_s, ttft_ms, num_tokens, wall_s)


async def stream_one(port: int, body: bytes) -> tuple[float, int]:
    """Return the time to the first text, seconds, and the number of tokens."""
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    ttft_s, tail = 0.0, b""
    while chunk := await reader.read(1 << 16):
        tail += chunk
        if not ttft_s and _TEXT.search(tail):
            ttft_s = time.monotonic() - began_s
        tail = tail[-_TAIL_BYTES:]
        if _DONE in tail:
            break
    writer.close()
    usage = _USAGE.findall(tail)
    if _DONE not in tail or not usage:
        shown = tail[-300:].decode(errors="replace")
        raise BenchError(f"port {port} did not answer to the end: {shown!r}")
    return ttft_s, int(usage[-1])
