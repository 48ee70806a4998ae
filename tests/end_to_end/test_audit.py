"""The audit and votes, through a real gateway, Redis and worker."""

import base64
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.chat import image_part, text_part
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack, running_stack
from tests.gateway.media.image_files import data_url, noise, saved
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

CANARY = "Canary-Prompt-4715"
ANSWER = "zq0000"  # the first token of the fake engine
KEY = "the key of an administrator"
ADMIN = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audited")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[RunningStack]:
    gateway = {"ADMIN_KEY": KEY, "AUDIT_KEY": "a key of the audit's"}
    with running_stack(folder, model=FAKE_MODEL, gateway=gateway) as running:
        yield running


@pytest.fixture(scope="module")
def http(stack: RunningStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{stack.base_url}/v1", timeout=30, trust_env=False) as client:
        yield client


def records(http: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    answer = http.get("/admin/audit", params=query, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def question(text: str) -> Any:
    file = base64.b64encode(saved(noise(60, 60, seed=1), "PNG")).decode()
    parts = [text_part(f"{CANARY} {text}"), image_part(f"data:image/png;base64,{file}")]
    return [{"role": "user", "content": parts}]


def ask(stack: RunningStack, text: str = "[[n=5]]", **more: Any) -> str:
    with stack.client() as client:
        create: Any = client.chat.completions.create
        return create(model=FAKE_MODEL, messages=question(text), user=CANARY, **more).id


def test_each_way_in_which_a_request_can_end_has_its_record(
    stack: RunningStack, http: httpx.Client
) -> None:
    whole = ask(stack, n=2)
    with stack.client() as client:
        create: Any = client.chat.completions.create
        stream = list(create(model=FAKE_MODEL, messages=question("[[n=5]]"), stream=True))
        with pytest.raises(openai.APIStatusError) as failed:
            create(model=FAKE_MODEL, messages=question("[[n=5 fail=2]]"))
        with pytest.raises(openai.NotFoundError) as unknown:
            create(model=CANARY, messages=question(""))
        with pytest.raises(openai.APITimeoutError):
            create(model=FAKE_MODEL, messages=question("[[n=9 d=600000]]"), timeout=0.3)
    wait_until(
        lambda: any(r["finish_reason"] == "abandoned" for r in records(http)), "the one who left"
    )

    found = {r["request_id"]: r for r in records(http)}
    first, second = found[whole], found[stream[0].id]
    assert (first["status"], first["finish_reason"], first["completion_tokens"]) == (
        200, "stop,stop", 10,
    )  # fmt: skip
    assert first["model"] == FAKE_MODEL
    assert len(first["images"]) == 1
    assert first["images"] == second["images"]
    assert (first["prompt_hash"], len(first["prompt_hash"])) == (second["prompt_hash"], 64)
    assert first["parameters_hash"] != second["parameters_hash"]
    assert second["finish_reason"] == "stop"
    broken = found[failed.value.response.headers["x-request-id"]]
    assert (broken["status"], broken["code"]) == (failed.value.status_code, failed.value.code)
    nowhere = found[unknown.value.response.headers["x-request-id"]]
    assert (nowhere["status"], nowhere["code"], nowhere["model"]) == (404, "model_not_found", "")


def test_a_record_names_what_was_made_changed_and_removed(http: httpx.Client) -> None:
    picture = ("a.png", saved(noise(60, 60, seed=1), "PNG"))
    made = http.post("/files", data={"purpose": "vision"}, files={"file": picture}).json()["id"]
    assert http.delete(f"/files/{made}").status_code == 200
    load = {"id": "org/other", "path": "/nowhere"}
    http.post("/admin/models", json=load, headers=ADMIN)  # which no host here can do
    http.post("/admin/workers/nobody:1/drain", headers=ADMIN)

    found = records(http, order="asc", object=made)
    assert [(r["method"], r["object"]) for r in found] == [("POST", made), ("DELETE", made)]
    for name, route in (("org/other", "/v1/admin"), ("nobody:1", "/v1/admin")):
        assert [r["route"] for r in records(http, object=name)] == [route]


def test_the_hash_of_a_completion_covers_all_of_its_prompts(
    stack: RunningStack, http: httpx.Client
) -> None:
    def prompt_hash(*prompts: str) -> str:
        body = {"model": FAKE_MODEL, "prompt": list(prompts), "n": 2, "max_tokens": 1}
        request_id = http.post("/completions", json=body).json()["id"]
        (record,) = records(http, request_id=request_id)
        return record["prompt_hash"]

    asked = prompt_hash("a", "b")
    assert asked == prompt_hash("a", "b")
    assert asked not in (prompt_hash("a", "c"), prompt_hash("a"))


def test_a_preview_is_recorded_with_the_key_of_its_picture(
    stack: RunningStack, http: httpx.Client
) -> None:
    def images(seed: int) -> list[str]:
        url = data_url(noise(60, 60, seed=seed))
        answer = http.post("/galen/preview", json={"model": FAKE_MODEL, "image_url": {"url": url}})
        assert answer.status_code == 200, answer.text
        (record,) = records(http, request_id=answer.headers["x-request-id"])
        assert (record["route"], record["finish_reason"]) == ("/v1/galen/preview", "")
        return record["images"]

    (first,) = images(seed=1)
    assert len(first) == 64
    assert images(seed=1) == [first] != images(seed=2)


def test_neither_question_nor_answer_is_in_the_database(stack: RunningStack, folder: Path) -> None:
    request_id = ask(stack)
    file = folder / "store" / "galen.db"

    def is_written() -> bool:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            query = "SELECT count(*) FROM audit WHERE request_id = ?"
            return database.execute(query, (request_id,)).fetchone() == (1,)

    wait_until(is_written, "the record, within a second or two", 5.0)
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        rows = repr(database.execute("SELECT * FROM audit").fetchall())
    assert request_id in rows
    assert [c for c in (CANARY, ANSWER) if c in rows] == []
    raw = b"".join(each.read_bytes() for each in (folder / "store").glob("galen.db*"))
    assert [c for c in (CANARY, ANSWER) if c.encode() in raw] == []


def test_the_audit_is_the_operators_only(http: httpx.Client) -> None:
    for path in ("/admin/audit", "/admin/audit/chains"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_forbidden")
    assert http.delete("/admin/audit", headers=ADMIN).status_code == 405  # nobody changes it
    assert http.post("/admin/audit", headers=ADMIN, json={}).status_code == 405


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"since": "yesterday"}, "invalid_value"),
        ({"outcome": "good"}, "invalid_value"),
        ({"limit": "1001"}, "invalid_value"),
        ({"after": "g:1"}, "invalid_value"),
        ({"tenant": "x" * 201}, "invalid_value"),
        ({"who": "me"}, "unsupported_parameter"),
    ],
)
def test_a_bad_query_is_refused(http: httpx.Client, query: dict[str, str], code: str) -> None:
    answer = http.get("/admin/audit", params=query, headers=ADMIN)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert answer.json()["error"]["param"] == next(iter(query))


def test_pages_and_filters(stack: RunningStack, http: httpx.Client) -> None:
    newest = ask(stack)
    ask(stack)

    assert [r["request_id"] for r in records(http, request_id=newest)] == [newest]
    page = http.get("/admin/audit", params={"limit": 1, "order": "asc"}, headers=ADMIN).json()
    assert page["has_more"] is True
    (following,) = records(http, limit=1, order="asc", after=page["last_id"])
    assert (page["data"][0]["number"], following["number"]) == (1, 2)
    assert records(http, tenant="nobody") == []
    assert records(http, until="2020-01-01") == []
    assert {r["code"] for r in records(http, outcome="succeeded")} == {""}


# -------------------------------------------------------------------------------------- votes


def vote(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/feedback", json=body)


EVIDENCE: dict[str, Any] = {
    "consent": True,
    "conversation": [
        {"role": "user", "content": "Which organ?"}, {"role": "assistant", "content": "Heart."},
    ],
    "images": [{"sha256": "a" * 64}],
    "subject": "patient-1",
    "licence": "CC0-1.0",
}  # fmt: skip


def test_a_vote_right_after_its_answer_is_kept_once(
    stack: RunningStack, http: httpx.Client
) -> None:
    request_id = ask(stack)

    first = vote(http, request_id=request_id, rating="up")
    again = vote(http, request_id=request_id, rating="down", **EVIDENCE)

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (first.json()["model"], first.json()["object"]) == (FAKE_MODEL, "feedback")
    kept = [v for v in http.get("/feedback").json()["data"] if v["request_id"] == request_id]
    assert kept == [again.json()]
    assert kept[0]["conversation"] == EVIDENCE["conversation"]


def test_a_vote_keeps_what_was_shown_of_an_image(stack: RunningStack, http: httpx.Client) -> None:
    shown = {"frame": 2, "window": {"center": 40.0, "width": 80.0}, "plane": None}
    image = {"sha256": "b" * 64, "preprocess": shown}
    more = {**EVIDENCE, "images": [*EVIDENCE["images"], image]}

    kept = vote(http, request_id=ask(stack), rating="up", **more).json()

    said = {name: value for name, value in shown.items() if value is not None}
    assert kept["images"] == [*EVIDENCE["images"], {"sha256": "b" * 64, "preprocess": said}]


@pytest.mark.parametrize("consent", [True, False])
@pytest.mark.parametrize(
    ("preprocess", "code", "param"),
    [
        ({"window": "heart"}, "invalid_value", ".window"),
        ({"recipe": "none"}, "invalid_value", ".recipe"),
        ({"frame": 0}, "invalid_value", ".frame"),
        ({"zoom": 2}, "unsupported_parameter", ".zoom"),
    ],
)
def test_what_no_request_could_have_shown_is_refused(
    stack: RunningStack, http: httpx.Client, consent: bool, preprocess: Any, code: str, param: str
) -> None:
    images = [{"sha256": "b" * 64, "preprocess": preprocess}]
    more = {**EVIDENCE, "consent": consent, "images": images}

    answer = vote(http, request_id=ask(stack), rating="up", **more)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400, code, f"images[0].preprocess{param}",
    )  # fmt: skip


def test_without_consent_only_the_rating_is_kept(
    stack: RunningStack, http: httpx.Client, folder: Path
) -> None:
    secret = "Canary-Reason-4716"
    more = {**EVIDENCE, "consent": False, "reason": secret, "corrected_answer": secret}

    kept = vote(http, request_id=ask(stack), rating="flag", **more).json()

    assert (kept["rating"], kept["consent"]) == ("flag", False)
    fields = ("reason", "corrected_answer", "conversation", "images", "subject", "licence")
    assert [kept[name] for name in fields] == [None] * 6
    raw = b"".join(each.read_bytes() for each in (folder / "store").glob("galen.db*"))
    assert secret.encode() not in raw


def test_consent_that_is_taken_back_takes_what_was_given(
    stack: RunningStack, http: httpx.Client
) -> None:
    request_id = ask(stack)
    vote(http, request_id=request_id, rating="up", **EVIDENCE)

    again = vote(http, request_id=request_id, rating="up").json()

    assert (again["consent"], again["conversation"], again["subject"]) == (False, None, None)


def test_a_vote_is_removed_by_its_voter(stack: RunningStack, http: httpx.Client) -> None:
    made = vote(http, request_id=ask(stack), rating="up").json()["id"]

    assert http.delete(f"/feedback/{made}").json() == {
        "id": made, "object": "feedback", "deleted": True,
    }  # fmt: skip
    gone = http.delete(f"/feedback/{made}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "vote_not_found")


def test_votes_have_pages(stack: RunningStack, http: httpx.Client) -> None:
    made = [vote(http, request_id=ask(stack), rating="up").json()["id"] for _ in range(3)]

    page = http.get("/feedback", params={"limit": 2}).json()
    rest = http.get("/feedback", params={"limit": 1, "after": page["last_id"]}).json()

    assert ([v["id"] for v in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    assert rest["data"][0]["id"] == made[0]
    assert http.get("/feedback", params={"after": "vote_x"}).status_code == 400


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"request_id": "chatcmpl-0"}, 404, "request_not_found", "request_id"),
        ({"rating": "good"}, 400, "invalid_value", "rating"),
        ({"who": "me"}, 400, "unsupported_parameter", "who"),
        ({"subject": None}, 400, "missing_required_parameter", "subject"),
        ({"licence": None}, 400, "missing_required_parameter", "licence"),
        ({"conversation": None}, 400, "invalid_value", "images"),
        ({"conversation": [{"role": "user", "content": "a"}]}, 400, "invalid_value", None),
        ({"images": [{}]}, 400, "invalid_value", "images[0]"),
        ({"images": [{"file_id": "file-x"}]}, 404, "file_not_found", "images[0].file_id"),
        ({"corrected_answer": "<image>"}, 400, "invalid_value", "corrected_answer"),
        ({"subject": "a\nb"}, 400, "invalid_value", "subject"),
    ],
)
def test_a_bad_vote_is_refused(
    stack: RunningStack,
    http: httpx.Client,
    change: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    body = {"request_id": ask(stack), "rating": "up", **EVIDENCE, **change}

    answer = vote(http, **body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert param is None or error["param"] == param


def test_a_request_that_generated_nothing_cannot_be_voted_on(http: httpx.Client) -> None:
    listed = http.get("/admin/audit", headers=ADMIN).headers["x-request-id"]

    answer = vote(http, request_id=listed, rating="up")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")
