"""Without keys: what a page of elsewhere sends through a browser on this machine is refused."""

import httpx
import pytest

from tests.end_to_end.keys import error_of
from tests.end_to_end.stack import RunningStack

pytestmark = pytest.mark.e2e

REFUSED = (403, "permission_error", "local_only")
QUESTION = {"model": "fake-vlm", "messages": [{"role": "user", "content": "[[n=1]]"}]}
CALLS = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/admin/hosts"),
    ("GET", "/nothing"),
]


def answer_to(
    stack: RunningStack, method: str, path: str, headers: dict[str, str]
) -> httpx.Response:
    body = QUESTION if method == "POST" else None
    url = f"{stack.base_url}{path}"
    return httpx.request(method, url, json=body, headers=headers, trust_env=False)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_no_path_is_open_to_a_page_of_elsewhere(
    fake_stack: RunningStack, method: str, path: str, headers: dict[str, str]
) -> None:
    assert error_of(answer_to(fake_stack, method, path, headers)) == REFUSED


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000"])
@pytest.mark.parametrize(("method", "path"), CALLS[:4])
def test_programs_of_this_machine_are_served(
    fake_stack: RunningStack, method: str, path: str, host: str
) -> None:
    assert answer_to(fake_stack, method, path, {"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_under_any_name(fake_stack: RunningStack, path: str) -> None:
    assert answer_to(fake_stack, "GET", path, {"host": "galen.example.org"}).status_code == 200
