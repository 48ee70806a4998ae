"""What a key may use (item 115), and what is written down of it, however a request ends."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from services.gateway.access.usage import FLUSH_S, today
from tests.end_to_end.keys import ADMIN_KEY, MODEL, Keyed, error_of, keyed_stack
from tests.gateway.media.image_files import data_url
from tests.support.waiting import wait_until

LIMITED = (429, "rate_limit_error", "rate_limit_exceeded")

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed_stack(tmp_path_factory.mktemp("limited")) as keyed:
        yield keyed


def row_soon(keyed: Keyed, key_id: str, num_requests: int = 1) -> dict[str, int]:
    """Wait until so many requests of a key are written, and return its one row."""
    found: list[dict[str, int]] = []

    def is_written() -> bool:
        found[:] = keyed.usage(key=ADMIN_KEY, model=MODEL)
        found[:] = [row for row in found if row["key_id"] == key_id]
        return bool(found) and found[0]["requests"] >= num_requests

    wait_until(is_written, "the use of the key", FLUSH_S + 5)
    [row] = found
    assert row["requests"] == num_requests
    return row


# ------------------------------------------------------------------------------------ limits


def test_requests_of_a_minute_are_limited_and_told(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"requests_per_minute": 3})
    answers = [keyed.ask(key) for _ in range(4)]
    refused = answers[3]

    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert error_of(refused) == LIMITED
    assert 10 <= int(refused.headers["retry-after"]) <= 20  # one comes back every 20 s
    assert [each.headers["x-ratelimit-remaining-requests"] for each in answers] == [
        "2", "1", "0", "0",
    ]  # fmt: skip
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert answers[0].headers["x-ratelimit-reset-requests"] == "20s"
    assert "x-ratelimit-limit-tokens" not in answers[0].headers


def test_a_preview_is_a_request_of_its_key_without_tokens(keyed: Keyed) -> None:
    key_id, key = keyed.issue(limits={"requests_per_minute": 2, "tokens_per_minute": 10})
    body = {"model": MODEL, "image_url": {"url": data_url(Image.new("RGB", (64, 64)))}}
    answers = [keyed.call("POST", "/v1/galen/preview", key, json=body) for _ in range(3)]

    assert [each.status_code for each in answers[:2]] == [200, 200]
    assert answers[1].headers["x-ratelimit-remaining-tokens"] == "10"
    assert error_of(answers[2]) == error_of(keyed.ask(key)) == LIMITED
    row = row_soon(keyed, key_id, 2)
    assert (row["errors"], row["prompt_tokens"], row["completion_tokens"]) == (0, 0, 0)


def test_other_routes_and_other_keys_are_not_limited_by_it(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"requests_per_minute": 1})
    _, other = keyed.issue(limits={"requests_per_minute": 1})
    keyed.ask(key)

    assert keyed.ask(key).status_code == 429
    assert keyed.call("GET", "/v1/models", key).status_code == 200
    assert keyed.ask(other).status_code == 200


def test_tokens_of_a_minute_are_settled_when_the_answer_is_over(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"tokens_per_minute": 1000})
    first = keyed.ask(key, "[[n=4]]", max_tokens=900)

    def has_room() -> bool:
        return keyed.ask(key, "[[n=4]]", max_tokens=900).status_code == 200

    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100
    wait_until(has_room, "what was not needed", 3)  # refilled alone, it would take 48 s


def test_tokens_of_a_minute_end(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"tokens_per_minute": 50})
    statuses = [keyed.ask(key, "[[n=40]]", max_tokens=40).status_code for _ in range(2)]
    refused = keyed.ask(key, "[[n=40]]", max_tokens=40)

    assert statuses[0] == 200
    assert error_of(refused) == LIMITED
    assert int(refused.headers["retry-after"]) > 10


def test_requests_at_once_are_limited_across_gateways(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"concurrent_requests": 1})
    port = keyed.stack.add_gateway()
    body = {"model": MODEL, "stream": True, "messages": [
        {"role": "user", "content": "[[n=400 d=20]]"}
    ]}  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as streaming:
        assert streaming.status_code == 200
        refused = keyed.ask(key)
        assert error_of(refused) == LIMITED
        assert refused.headers["retry-after"] == "1"
    wait_until(lambda: keyed.ask(key).status_code == 200, "room after the client left", 5)


def test_the_tokens_of_a_month_end(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"tokens_per_month": 20})
    first = keyed.ask(key, "[[n=30]]", max_tokens=30)

    def is_refused() -> bool:
        return keyed.ask(key, "[[n=4]]", max_tokens=4).status_code == 429

    assert first.status_code == 200
    wait_until(is_refused, "the end of the budget", 5)
    refused = keyed.ask(key)
    assert error_of(refused) == LIMITED
    assert int(refused.headers["retry-after"]) > 60
    assert "tokens per month" in refused.json()["error"]["message"]


def test_a_months_use_survives_a_redis_that_lost_its_data(keyed: Keyed) -> None:
    key_id, key = keyed.issue(limits={"tokens_per_month": 20})
    assert keyed.ask(key, "[[n=30]]", max_tokens=30).status_code == 200
    row_soon(keyed, key_id)
    for name in keyed.stack.redis.scan_iter("galen:limit_spent:*"):
        keyed.stack.redis.delete(name)

    assert error_of(keyed.ask(key)) == LIMITED


# -------------------------------------------------------------------------------------- use


def test_use_is_exactly_what_the_answer_said(keyed: Keyed) -> None:
    key_id, key = keyed.issue(tenant="exact")
    content = [
        {"type": "text", "text": "[[n=7]] one two three"},
        {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (64, 64)))}},
    ]
    usage = keyed.ask(key, content).json()["usage"]
    row = row_soon(keyed, key_id)

    assert row["prompt_tokens"] == usage["prompt_tokens"]
    assert row["completion_tokens"] == usage["completion_tokens"] == 7
    assert 0 < row["image_tokens"] < row["prompt_tokens"]
    assert (row["errors"], row["tenant"], row["day"]) == (0, "exact", today())


def test_choices_count_their_tokens_and_the_prompt_once(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    usage = keyed.ask(key, "[[n=5]] a b", n=3).json()["usage"]
    row = row_soon(keyed, key_id)

    assert row["completion_tokens"] == usage["completion_tokens"] == 15
    assert row["prompt_tokens"] == usage["prompt_tokens"]


@pytest.mark.parametrize("n", [1, 2])
def test_every_prompt_of_a_completion_counts(keyed: Keyed, n: int) -> None:
    key_id, key = keyed.issue()
    prompts = ["[[n=3]] a", "[[n=5]] a b c d e f g", "[[n=2]] a b c"]
    usage = keyed.complete(key, prompts, n=n).json()["usage"]
    row = row_soon(keyed, key_id)

    assert row["completion_tokens"] == usage["completion_tokens"] == 10 * n
    assert row["prompt_tokens"] == usage["prompt_tokens"]


def test_every_prompt_of_a_completion_needs_room(keyed: Keyed) -> None:
    _, key = keyed.issue(limits={"tokens_per_minute": 1000})
    answer = keyed.complete(key, ["[[n=1]]"] * 3, n=2, max_tokens=100)

    assert answer.status_code == 200
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 1000 - 3 * 2 * 100


def test_a_stream_counts_like_an_answer(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    assert keyed.ask(key, "[[n=9]] a b", stream=True).text.endswith("data: [DONE]\n\n")
    row = row_soon(keyed, key_id)

    assert (row["completion_tokens"], row["errors"]) == (9, 0)
    assert row["prompt_tokens"] > 0


def test_a_client_that_leaves_pays_for_what_was_made(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    body = {"model": MODEL, "stream": True, "messages": [
        {"role": "user", "content": "[[n=500 d=20]] a b"}
    ]}  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    url = f"{keyed.stack.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as streaming:
        lines = streaming.iter_lines()
        for _ in range(20):
            next(lines)
    row = row_soon(keyed, key_id)

    assert 5 <= row["completion_tokens"] < 500
    assert row["prompt_tokens"] > 0
    assert row["errors"] == 0


def test_a_client_that_leaves_before_the_first_token_pays_for_its_prompt(keyed: Keyed) -> None:
    key_id, key = keyed.issue(limits={"tokens_per_minute": 1000})
    prompt = "[[n=4 d=600000]]" + " word" * 640  # about 800 tokens
    with pytest.raises(httpx.ReadTimeout):
        keyed.ask(key, prompt, max_tokens=4, timeout=1.0)
    row = row_soon(keyed, key_id)

    assert 800 <= row["prompt_tokens"] < 900
    assert (row["completion_tokens"], row["errors"]) == (0, 0)
    assert error_of(keyed.ask(key, prompt, max_tokens=4)) == LIMITED


def test_what_is_refused_before_it_is_queued_costs_no_tokens(keyed: Keyed) -> None:
    key_id, key = keyed.issue(limits={"tokens_per_minute": 1000})
    content = [
        {"type": "text", "text": "word " * 640},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert keyed.ask(key, content, max_tokens=4).status_code == 400
    row = row_soon(keyed, key_id)

    assert (row["requests"], row["errors"], row["prompt_tokens"]) == (1, 1, 0)


def test_errors_are_counted_and_cost_nothing(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    assert keyed.ask(key, "[[fail=0]]").status_code == 500
    row = row_soon(keyed, key_id)

    assert (row["requests"], row["errors"], row["completion_tokens"]) == (1, 1, 0)
    assert row["prompt_tokens"] == 0


def test_when_a_key_was_used_last_is_known(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    assert keyed.admin("GET", f"/keys/{key_id}")["last_used_at"] is None
    keyed.call("GET", "/v1/models", key)

    def is_noted() -> bool:
        return keyed.admin("GET", f"/keys/{key_id}")["last_used_at"] is not None

    wait_until(is_noted, "the note of its use", FLUSH_S + 5)


def test_use_of_others_is_shown_to_the_admin_alone(keyed: Keyed) -> None:
    a_id, a_key = keyed.issue(tenant="use-a", scopes=["chat", "usage"])
    b_id, b_key = keyed.issue(tenant="use-b", scopes=["chat", "usage"])
    for key, key_id in ((a_key, a_id), (b_key, b_id)):
        keyed.ask(key)
        row_soon(keyed, key_id)

    assert {row["tenant"] for row in keyed.usage(a_key)} == {"use-a"}
    assert {row["tenant"] for row in keyed.usage(a_key, tenant="use-b")} == {"use-a"}
    assert {row["key_id"] for row in keyed.usage(ADMIN_KEY, tenant="use-b")} == {b_id}
    assert {a_id, b_id} <= {row["key_id"] for row in keyed.usage(ADMIN_KEY)}


def test_use_comes_in_pages_and_as_csv(keyed: Keyed) -> None:
    for _ in range(3):
        key_id, key = keyed.issue(tenant="paged")
        keyed.ask(key)
        row_soon(keyed, key_id)
    seen: list[str] = []
    query = {"tenant": "paged", "limit": "2"}
    while True:
        page = keyed.call("GET", "/v1/usage", ADMIN_KEY, params=query).json()
        seen += [row["key_id"] for row in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["next"]
    csv = keyed.call("GET", "/v1/usage", ADMIN_KEY, params={"tenant": "paged", "format": "csv"})

    assert len(seen) == len(set(seen)) == 3
    assert csv.headers["content-type"].startswith("text/csv")
    head, *rows = csv.text.splitlines()
    assert head.startswith("day,key_id,tenant,model,requests,errors,prompt_tokens,image_tokens")
    assert len(rows) == 3


@pytest.mark.parametrize(
    "query", [{"start": "yesterday"}, {"format": "xml"}, {"limit": "0"}, {"after": "x"}]
)
def test_bad_questions_for_use_are_refused(keyed: Keyed, query: dict[str, str]) -> None:
    answer = keyed.call("GET", "/v1/usage", ADMIN_KEY, params=query)

    assert answer.status_code == 400
    assert error_of(answer)[2] == "invalid_value"


def test_days_are_chosen(keyed: Keyed) -> None:
    key_id, key = keyed.issue()
    keyed.ask(key)
    row_soon(keyed, key_id)

    assert keyed.usage(start=today(), end=today())
    assert keyed.usage(end="2020-01-01") == []


# ------------------------------------------------------------------------------------ the end


def test_a_gateway_that_is_told_to_stop_writes_what_it_has_counted(tmp_path: Path) -> None:
    with keyed_stack(tmp_path) as keyed:
        key_id, key = keyed.issue()
        keyed.ask(key, "[[n=6]]")
        port = keyed.stack.add_gateway()
        keyed.stack.gateway.send(signal.SIGTERM)
        assert keyed.stack.gateway.process is not None
        keyed.stack.gateway.process.wait(30)
        answer = httpx.get(
            f"http://127.0.0.1:{port}/v1/usage", headers={"authorization": f"Bearer {ADMIN_KEY}"}
        )

        [row] = [each for each in answer.json()["data"] if each["key_id"] == key_id]
        assert row["completion_tokens"] == 6
