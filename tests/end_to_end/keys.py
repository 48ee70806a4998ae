"""A platform that asks for keys, and what tests make of its administration."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.stack import RunningStack, running_stack

MODEL = "fake-vlm"
ADMIN_KEY = "admin-key-of-the-tests-0123456789"


class Keyed:
    """A stack with keys."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        self.http = httpx.Client(base_url=stack.base_url, timeout=30, verify=False)

    def call(self, method: str, path: str, key: str | None, **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return self.http.request(method, path, headers=headers, **options)

    def admin(self, method: str, path: str, **options: Any) -> Any:
        answer = self.call(method, f"/v1/admin{path}", ADMIN_KEY, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def issue(self, **fields: Any) -> tuple[str, str]:
        """Make a key; returns its id and the key."""
        made = self.admin("POST", "/keys", json={"name": "test", **fields})
        return made["record"]["id"], made["key"]

    def ask(self, key: str | None, prompt: Any = "[[n=4]]", **body: Any) -> httpx.Response:
        options = {"timeout": body.pop("timeout")} if "timeout" in body else {}
        chat = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **body}
        return self.call("POST", "/v1/chat/completions", key, json=chat, **options)

    def complete(self, key: str | None, prompts: list[str], **body: Any) -> httpx.Response:
        asked = {"model": MODEL, "prompt": prompts, **body}
        return self.call("POST", "/v1/completions", key, json=asked)

    def usage(self, key: str = ADMIN_KEY, **query: Any) -> list[dict[str, Any]]:
        answer = self.call("GET", "/v1/usage", key, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@contextlib.contextmanager
def keyed_stack(folder: Path, **gateway: str) -> Iterator[Keyed]:
    settings = {"AUTH": "required", "ADMIN_KEY": ADMIN_KEY, "LOG_LEVEL": "debug", **gateway}
    with running_stack(folder, model=MODEL, slots=64, gateway=settings, key=ADMIN_KEY) as stack:
        keyed = Keyed(stack)
        try:
            yield keyed
        finally:
            keyed.http.close()


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Return status, type and code of an error, whose shape is checked."""
    error = json.loads(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return answer.status_code, error["type"], error["code"]
