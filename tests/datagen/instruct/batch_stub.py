"""An endpoint with `/files` and `/batches` that may forget, be away, or keep silent on usage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tests.datagen.instruct.figures import CONVERSATION


def answered(text: str = CONVERSATION, status: int = 200, **usage: int) -> dict[str, Any]:
    """What stands in the `response` of a result."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    body = {**head, "choices": [choice], **({"usage": usage} if usage else {})}
    return {"status_code": status, "body": body if status == 200 else {"error": {"code": "x"}}}


@dataclass
class BatchStub:
    """Batches that are done when they are made; `routes` go into a `StubEndpoint`.

    Args:
        response: to each line.
        is_running: batches do not end.
        is_away: a proxy answers, with HTML.
    """

    response: Mapping[str, Any] = field(default_factory=answered)
    is_running: bool = False
    is_away: bool = False
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    """Names of all lines of all batches."""

    @property
    def routes(self) -> list[Route]:
        """Of OpenAI's paths."""
        return [
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files/{name}/content", self._content),
            Route("/v1/batches", self._make_or_list, methods=["GET", "POST"]),
            Route("/v1/batches/{name}", self._show),
        ]

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            file: Any = form["file"]
            content = await file.read()
        name = f"file-{len(self.files)}"
        self.files[name] = [json.loads(line) for line in content.splitlines()]
        return JSONResponse({
            "id": name, "object": "file", "bytes": len(content), "created_at": 0,
            "filename": "in.jsonl", "purpose": "batch", "status": "processed",
        })  # fmt: skip

    async def _make_or_list(self, request: Request) -> Response:
        if self.is_away:
            return HTMLResponse("<h1>away</h1>")
        if request.method == "GET":
            made = list(self.batches.values())
            return JSONResponse({"object": "list", "data": made, "has_more": False})
        name, file = f"batch-{len(self.sent)}", (await request.json())["input_file_id"]
        self.sent += [line["custom_id"] for line in self.files[file]]
        self.files[f"{name}-out"] = [
            {"custom_id": line["custom_id"], "response": dict(self.response), "error": None}
            for line in self.files[file]
        ]
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": "/v1/chat/completions", "created_at": 0,
            "completion_window": "24h", "input_file_id": file, "output_file_id": f"{name}-out",
            "status": "in_progress" if self.is_running else "completed",
        }  # fmt: skip
        return JSONResponse(self.batches[name])

    async def _show(self, request: Request) -> Response:
        if self.is_away:
            return HTMLResponse("<h1>away</h1>")
        found = self.batches.get(request.path_params["name"])
        return _none() if found is None else JSONResponse(found)

    async def _content(self, request: Request) -> Response:
        found = self.files.get(request.path_params["name"])
        if found is None:
            return _none()
        return Response("".join(json.dumps(each) + "\n" for each in found))


def _none() -> Response:
    return JSONResponse({"error": {"message": "no such thing", "code": "not_found"}}, 404)
