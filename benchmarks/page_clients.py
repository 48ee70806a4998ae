"""A visitor of the page without a browser: what Gradio's own script sends, over plain HTTP.

Gradio's Python client is of no use here: the page offers it no function. What does *not* live here:
what is measured (`page.py`).
"""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Self

import httpx

from benchmarks.processes import BenchError

_QUESTION = "question"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One question.

    Args:
        first_s: until the first text of the answer was there.
        total_s: until its end.
    """

    first_s: float
    total_s: float


class PageClient:
    """A session of its own; use it as a context manager."""

    def __init__(self, url: str, model: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, verify=False)
        self._model = model
        self._config: dict[str, Any] = {}
        self._page = secrets.token_hex(6)

    async def __aenter__(self) -> Self:
        (await self._http.get("/")).raise_for_status()  # the cookie
        self._config = (await self._http.get("/config")).raise_for_status().json()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, question: str, ending: str) -> Visit:
        """Send a question of the chat; raises BenchError where the answer lacks its ending."""
        box = next(each for each in self._components() if self._is(each, _QUESTION))
        events = [
            each
            for each in self._config["dependencies"]
            if [box["id"], "submit"] in each["targets"] and each["types"]["generator"]
        ]
        event = events[0]  # the other one empties the box
        body = {
            "data": [self._value_of(each, box["id"], question) for each in event["inputs"]],
            "event_data": None,
            "fn_index": event["id"],
            "trigger_id": box["id"],
            "session_hash": self._page,
        }
        began = time.monotonic()
        (await self._http.post("/gradio_api/queue/join", json=body)).raise_for_status()
        first_s, seen = 0.0, ""
        query = {"session_hash": self._page}
        async with self._http.stream("GET", "/gradio_api/queue/data", params=query) as events:
            async for line in events.aiter_lines():
                if not line.startswith("data:"):
                    continue
                seen += line if ending in line else ""
                if not first_s and "zq0000" in line:
                    first_s = time.monotonic() - began
                if json.loads(line.removeprefix("data:"))["msg"] == "process_completed":
                    break
        if ending not in seen or not first_s:
            raise BenchError(f"the page's answer has no {ending!r}")
        return Visit(first_s, time.monotonic() - began)

    def _components(self) -> list[dict[str, Any]]:
        return self._config["components"]

    @staticmethod
    def _is(component: dict[str, Any], name: str) -> bool:
        return component["props"].get("elem_id") == name

    def _value_of(self, component_id: int, box: int, question: str) -> object:
        component = next(each for each in self._components() if each["id"] == component_id)
        if component_id == box:
            return {"text": question, "files": []}
        if self._is(component, "model"):
            return self._model
        return None if component["type"] == "state" else component["props"].get("value")
