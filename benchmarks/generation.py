"""Measures what share of an endpoint's allowed rate `galen datagen instruct`'s client gets.

The endpoint is a process of its own: a token bucket that holds one second's worth, 429 with
`Retry-After` in whole seconds when it is empty, an answer after a while otherwise. Asked through
`services.endpoint_client`, as every command does.

Run: python -m benchmarks.generation --help
"""

import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.endpoint_client.asking_all import Asking, ask_all
from services.endpoint_client.client import Endpoint, EndpointClient

TARGET_SHARE = 0.95
_LEARNT_S = 15.0
_ANSWER = "User: What is shown?\n\nAssistant: A scan."

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Allowed:
    """What an endpoint lets through.

    Args:
        retry_after: whether a refusal says when to come again.
    """

    per_s: float
    answer_s: float
    retry_after: bool


class _Bucket:
    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._held = allowed.per_s
        self._filled_s = time.monotonic()
        self.num_refused = 0

    async def complete(self, request: Request) -> Response:
        await request.body()
        now_s = time.monotonic()
        self._held += (now_s - self._filled_s) * self._allowed.per_s
        self._held = min(self._held, max(1.0, self._allowed.per_s))
        self._filled_s = now_s
        if self._held < 1:
            self.num_refused += 1
            headers = {"Retry-After": "1"} if self._allowed.retry_after else {}
            return JSONResponse({"error": {"message": "full"}}, 429, headers)
        self._held -= 1
        await asyncio.sleep(self._allowed.answer_s)
        message = {"role": "assistant", "content": _ANSWER}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        return JSONResponse({**head, "choices": choices, "usage": usage})

    async def refused(self, _: Request) -> Response:
        return JSONResponse(self.num_refused)


def serve(listening: socket.socket, allowed: Allowed) -> None:
    """Run the endpoint until it is ended."""
    bucket = _Bucket(allowed)
    routes = [
        Route("/v1/chat/completions", bucket.complete, methods=["POST"]),
        Route("/refused", bucket.refused),
    ]
    uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error")).run([listening])


@dataclass(frozen=True)
class _Question:
    id: str


class _Count:
    def __init__(self) -> None:
        self.at_s: list[float] = []

    def __contains__(self, key: str) -> bool:
        return False

    def add(self, record: Mapping[str, object]) -> None:
        assert not record  # nothing is kept here
        self.at_s.append(time.monotonic())


async def measure(url: str, at_once: int, seconds: float) -> float:
    """Return answers per second, after the time in which the rate is learnt."""
    kept = _Count()
    started_s = time.monotonic()
    async with EndpointClient(Endpoint(url, "m"), at_once) as client:

        async def ask(_: _Question) -> Mapping[str, object]:
            await client.complete([{"role": "user", "content": "x"}], {})
            return {}

        def waiting() -> Iterator[_Question]:
            number = 0
            while time.monotonic() - started_s < seconds:
                number += 1
                yield _Question(str(number))

        await ask_all(waiting(), Asking(ask, at_once), kept, lambda *_: None)
    begin_s, end_s = started_s + _LEARNT_S, started_s + seconds
    return sum(begin_s <= at_s < end_s for at_s in kept.at_s) / (end_s - begin_s)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(min=20, help="Of each measurement.")] = 60,
    per_s: Annotated[list[float] | None, typer.Option(help="Allowed rates.")] = None,
    at_once: Annotated[int, typer.Option(min=1)] = 64,
    answer_s: Annotated[float, typer.Option(min=0)] = 0.5,
) -> None:
    """Print the share of the allowed rate for each rate, with and without Retry-After."""
    is_met = True
    for retry_after in (True, False):
        for rate in per_s or [5.0, 20.0, 60.0]:
            allowed = Allowed(rate, answer_s, retry_after)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                context = multiprocessing.get_context("fork")
                child = context.Process(target=serve, args=(listening, allowed), daemon=True)
                child.start()
                try:
                    got = asyncio.run(measure(f"http://127.0.0.1:{port}/v1", at_once, seconds))
                finally:
                    child.terminate()
                    child.join()
            share = got / rate
            is_met = is_met and share >= TARGET_SHARE
            row = {"allowed_per_s": rate, "retry_after": retry_after, "got_per_s": round(got, 2)}
            print(json.dumps({**row, "share": round(share, 3)}), flush=True)
    raise typer.Exit(0 if is_met else 1)


if __name__ == "__main__":
    app()
