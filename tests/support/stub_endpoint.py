"""An OpenAI endpoint that behaves badly on demand: a real server on the loopback, in a thread.

What it answers is decided by a function of the test's; what it was asked is kept.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.waiting import wait_until

Decide = Callable[[Mapping[str, Any], int], Response]
"""Of the request's body and its number, from 0."""


def completion(text: str, model: str = "stub") -> Response:
    """Return a chat completion."""
    content = json.dumps(  # ASCII: any character may be said
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    )
    return Response(content, media_type="application/json")


def full(retry_after: str | None = None, status: int = 429) -> JSONResponse:
    """Return a refusal for want of room."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = {"message": "full", "type": "rate_limit", "code": "rate_limited"}
    return JSONResponse({"error": error}, status, headers)


def text_of(body: Mapping[str, Any]) -> str:
    """Return the text parts of a request's last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


@dataclass
class StubEndpoint:
    """Use it as a context manager."""

    decide: Decide
    models: tuple[str, ...] = ("stub",)
    told: Mapping[str, Any] = field(default_factory=dict)
    """What it says of its models beside OpenAI's fields."""
    more_routes: Sequence[Route] = ()
    port: int = 0
    """To listen on; 0: any free one."""
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """With /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/openai/deployments/{name}/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._list),
            Route("/v1/models/{name:path}", self._show),
            *self.more_routes,
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, daemon=True
        )
        self._thread.start()
        wait_until(lambda: self._server.started, "the stub endpoint")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        with self._lock:
            number = len(self.asked)
            self.asked.append(body)
            key = request.headers.get("api-key") or request.headers.get("authorization", "")
            self.keys.add(key.removeprefix("Bearer "))
            self.paths.add(f"{request.url.path}?{request.url.query}".rstrip("?"))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await run_in_threadpool(self.decide, body, number)
        finally:
            with self._lock:
                self._now -= 1

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self.models]})

    async def _show(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.models:
            return JSONResponse({"error": {"message": "unknown", "code": "model_not_found"}}, 404)
        return JSONResponse(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "x", **self.told}
