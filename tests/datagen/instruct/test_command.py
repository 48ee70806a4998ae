"""Conversations are asked for once each, kept at once, and nothing leaves without consent."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from tests.datagen.instruct.figures import CONVERSATION, instruct, lines, record, write
from tests.support.stub_endpoint import StubEndpoint, completion, full, text_of


def number_in(body: Mapping[str, Any]) -> int:
    found = re.search(r"Scan number (\d+)", text_of(body))
    assert found is not None
    return int(found.group(1))


def good(body: Mapping[str, Any], number: int) -> Response:
    return completion(CONVERSATION)


def choice(**fields: Any) -> Response:
    """A completion whose only choice has these fields."""
    answer = json.loads(bytes(completion(fields.pop("content", "")).body))
    message = answer["choices"][0]["message"]
    message["refusal"] = fields.pop("refusal", None)
    answer["choices"][0].update(fields)
    return JSONResponse(answer)


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    return write(tmp_path / "figures.jsonl", [record(number) for number in range(12)])


def test_every_figure_gets_its_conversation_beside_all_its_fields(tmp_path: Path):
    out = tmp_path / "made" / "out.jsonl"
    given = [record(0, "mri", license="CC BY", extra=[1]), record(1, "gross", "histology")]
    with StubEndpoint(good) as stub:
        done = instruct(
            write(tmp_path / "f", given), "--out", out, "--url", stub.url, "--seed", 5,
            "--price-prompt", 1_000_000, "--price-completion", 1_000_000,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {each["pair_id"]: each for each in lines(out)}
    first, second = made["00000_fig"], made["00001_fig"]
    assert first["result"] == CONVERSATION
    assert (first["image"], first["licence"], first["extra"]) == ("00000_fig.jpg", "CC BY", [1])
    assert second["domain"]["gross"] is second["domain"]["histology"] is True
    assert "turns" not in first
    told = first["generation"]
    assert len(told.pop("prompt_sha256")) == 64
    assert told == {
        "version": 1, "model": "stub", "prompt": "instruct-v1", "temperature": 0.0, "seed": 5,
        "use_mentions": True, "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 2,
        "cost": 5.0, "structured": False,
    }  # fmt: skip
    [second_asked] = [body for body in stub.asked if number_in(body) == 1]
    assert "A mass was seen." in text_of(second_asked)
    assert "cost 10.00" in done.stderr
    report = json.loads((tmp_path / "made" / "out.jsonl.report.json").read_text())
    assert (report["status"], report["conversations"], report["cost"]) == ("complete", 2, 10.0)


def test_structured_answers_are_kept_as_turns_and_as_text(figures: Path, tmp_path: Path):
    turns = [{"question": "What?", "answer": "A scan."}, {"question": "Where?", "answer": "Left."}]
    with StubEndpoint(lambda body, number: completion(json.dumps({"turns": turns}))) as stub:
        done = instruct(figures, "--out", tmp_path / "out", "--url", stub.url, "--max-size", 1)
    assert done.returncode == 0, done.stderr
    [made] = lines(tmp_path / "out")
    assert made["turns"] == turns
    assert made["result"] == "User: What?\n\nAssistant: A scan.\n\nUser: Where?\n\nAssistant: Left."
    assert made["generation"]["structured"] is True
    assert stub.asked[0]["response_format"]["json_schema"]["strict"] is True
    assert json.loads(stub.asked[0]["messages"][2]["content"])["turns"]


@pytest.mark.parametrize("structured", ["auto", "on"])
def test_endpoint_without_structured_output_is_asked_for_text(
    figures: Path, tmp_path: Path, structured: str
):
    def decide(body: Mapping[str, Any], number: int) -> Response:
        if "response_format" in body:
            return JSONResponse({"error": {"message": "x", "code": "unsupported"}}, 400)
        return completion(CONVERSATION)

    words = ("--out", tmp_path / "out", "--structured", structured, "--at-once", 1)
    with StubEndpoint(decide) as stub:
        done = instruct(figures, *words, "--url", stub.url)
    if structured == "on":
        assert done.returncode == 3
        assert "HTTP 400, unsupported" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len(stub.asked) == 13  # it refused once
        assert stub.asked[1]["messages"][2]["content"].startswith("User: ")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: completion(""), "empty"),
        (lambda: completion("I cannot see the image."), "no conversation"),
        (lambda: choice(refusal="No."), "refused"),
        (lambda: choice(finish_reason="content_filter"), "content filter"),
        (lambda: choice(content=CONVERSATION, finish_reason="length"), "cut off at --max-tokens"),
        (lambda: JSONResponse({"error": {"message": "x", "code": "content_filter"}}, 400),
         "content filter"),
        (lambda: JSONResponse({"error": {"message": "x", "code": "too_long"}}, 400),
         "HTTP 400, too_long"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_listed_asked_again_and_left_in_the_end(
    figures: Path, tmp_path: Path, answer: Any, reason: str
):
    out = tmp_path / "out"

    def decide(body: Mapping[str, Any], number: int) -> Response:
        return answer() if number_in(body) == 3 else completion(CONVERSATION)

    with StubEndpoint(decide) as stub:
        words = (figures, "--out", out, "--url", stub.url, "--tries", 2, "--structured", "off")
        first = instruct(*words)
        again = instruct(*words)
        last = instruct(*words)
    assert (first.returncode, again.returncode, last.returncode) == (3, 3, 3)
    assert f"1 {reason}" in first.stderr or reason in first.stderr
    assert "asks 1 of them again" in first.stderr
    assert "none is asked again" in last.stderr
    assert len(stub.asked) == 13
    assert stub.asked[-1]["seed"] == 1
    assert len(lines(out)) == 11
    failures = lines(tmp_path / "out.failures.jsonl")
    assert [each["pair_id"] for each in failures] == ["00003_fig"] * 2
    assert reason in failures[0]["reason"]


def test_endpoint_that_answers_html_costs_one_figure_and_not_the_others(
    figures: Path, tmp_path: Path
):
    def decide(body: Mapping[str, Any], number: int) -> Response:
        is_it = number_in(body) == 3
        return HTMLResponse("<h1>SECRET</h1>") if is_it else completion(CONVERSATION)

    with StubEndpoint(decide) as stub:
        done = instruct(figures, "--out", tmp_path / "out", "--url", stub.url)
    assert done.returncode == 3
    assert "no chat completion" in done.stderr
    assert "SECRET" not in done.stderr
    assert len(lines(tmp_path / "out")) == 11


def test_refusals_for_want_of_room_lose_nothing(figures: Path, tmp_path: Path):
    with StubEndpoint(lambda body, n: full("0") if n % 3 else completion(CONVERSATION)) as stub:
        done = instruct(figures, "--out", tmp_path / "out", "--url", stub.url)
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "out")) == 12


@pytest.mark.parametrize("size", [1, 5, 12, 50])
def test_max_size_is_the_number_of_conversations_and_may_grow(
    figures: Path, tmp_path: Path, size: int
):
    out = tmp_path / "out"
    with StubEndpoint(good) as stub:
        instruct(figures, "--out", out, "--url", stub.url, "--max-size", size)
        assert len(lines(out)) == min(size, 12)
        done = instruct(figures, "--out", out, "--url", stub.url)
    assert done.returncode == 0
    assert len(stub.asked) == len(lines(out)) == 12


@pytest.mark.parametrize(
    "changed",
    [("--seed", 1), ("--temperature", 0.5), ("--no-mentions",), ("--model", "other"),
     ("--domain", "mri"), ("--max-tokens", 9)],
)  # fmt: skip
def test_another_run_is_refused_unless_it_begins_anew(
    figures: Path, tmp_path: Path, changed: tuple[object, ...]
):
    words = (figures, "--out", tmp_path / "out")
    with StubEndpoint(good) as stub:
        instruct(*words, "--url", stub.url)
        other = instruct(*words, "--url", stub.url, *changed)
        anew = instruct(*words, "--url", stub.url, *changed, "--new-run")
    assert (other.returncode, anew.returncode) == (2, 0)
    assert "holds another run" in other.stderr
    assert len(stub.asked) == 24


def test_file_that_no_run_wrote_is_left_alone(figures: Path, tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with StubEndpoint(good) as stub:
        done = instruct(figures, "--out", tmp_path / "out", "--url", stub.url, "--new-run")
    assert done.returncode == 2
    assert (tmp_path / "out").read_text() == "mine"
    assert stub.asked == []


def test_nothing_leaves_the_machine_without_consent(figures: Path, tmp_path: Path):
    words = ("--out", tmp_path / "out", "--url", "https://example.invalid/v1", "--model", "m")
    done = instruct(figures, *words)
    assert done.returncode == 2
    assert "no image" in done.stderr
    assert "--allow-external" in done.stderr
    assert not (tmp_path / "out").exists()


def test_texts_that_seem_to_name_a_patient_stay_here(tmp_path: Path):
    given = [record(0, fig_caption="CT of Mr. Miller.")]
    words = ("--url", "https://example.invalid/v1", "--model", "m", "--allow-external")
    done = instruct(write(tmp_path / "f", given), "--out", tmp_path / "out", *words)
    assert done.returncode == 1
    assert "seem to name a patient: a name behind a title in 1, such as 00000_fig" in done.stderr


def test_ceiling_is_never_passed_and_a_higher_one_goes_on(figures: Path, tmp_path: Path):
    words = (figures, "--out", tmp_path / "out", "--max-tokens", 10, "--at-once", 4)
    priced = ("--price-prompt", 0.000001, "--price-completion", 100_000)  # 0.2 each, 1 at most
    with StubEndpoint(good) as stub:
        done = instruct(*words, *priced, "--url", stub.url, "--most-cost", 2)
        assert done.returncode == 3
        assert "more than --most-cost 2 might be spent" in done.stderr
        assert 0 < len(stub.asked) * 0.2 <= 2
        again = instruct(*words, *priced, "--url", stub.url, "--most-cost", 20)
    assert again.returncode == 0
    assert "cost 2.40" in again.stderr
    assert len(stub.asked) == 12


def test_dry_run_sends_and_writes_nothing(figures: Path, tmp_path: Path):
    words = ("--url", "https://example.invalid/v1", "--price-prompt", 1, "--dry-run")
    done = instruct(figures, "--out", tmp_path / "made" / "out", *words)
    assert done.returncode == 0
    assert "Scan number 0, with a mass." in done.stdout
    assert "Scan number 1, with a mass." not in done.stdout
    assert "of each domain: mri 12" in done.stderr
    assert "12 figures would go to https://example.invalid/v1" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["figures.jsonl"]


def test_dry_run_of_a_run_shows_what_is_left_of_it_and_changes_nothing(
    figures: Path, tmp_path: Path
):
    words = (figures, "--out", tmp_path / "out")
    with StubEndpoint(good) as stub:
        instruct(*words, "--url", stub.url, "--max-size", 5)
        (tmp_path / "out").write_bytes((tmp_path / "out").read_bytes()[:-7])  # torn
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        left = instruct(*words, "--dry-run")
        other = instruct(*words, "--dry-run", "--seed", 9)
        assert len(stub.asked) == 5
    assert "8 figures would go to" in left.stderr
    assert "4 of the chosen figures need no question" in left.stderr
    assert (other.returncode, "seed" in other.stderr) == (2, True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_input_is_counted_and_told_and_costs_itself_alone(tmp_path: Path):
    good_ones = [json.dumps(record(number)) for number in range(3)]
    bad = ['{"id": "other schema"}', json.dumps(record(7, fig_caption=" ")), "[1]", good_ones[1]]
    path = tmp_path / "f"
    path.write_text("\ufeff" + "\n".join([*good_ones, *bad, '{"pair_id": "to']))
    with StubEndpoint(good) as stub:
        done = instruct(path, "--out", tmp_path / "out", "--url", stub.url)
    assert done.returncode == 3
    assert len(lines(tmp_path / "out")) == len(stub.asked) == 3
    assert "1 records name a figure again" in done.stderr
    read = json.loads((tmp_path / "out.report.json").read_text())["input"]
    assert read["problems"] == {
        "pair_id is no name of a file": 1, "no fig_caption": 1, "no object": 1, "torn last line": 1
    }  # fmt: skip
    assert [each["number"] for each in read["first_problems"]] == [4, 5, 6, 8]


def test_wrong_key_ends_all_with_one_line(figures: Path, tmp_path: Path):
    decide = lambda body, number: JSONResponse({"error": {"message": "no"}}, 401)  # noqa: E731
    with StubEndpoint(decide) as stub:
        done = instruct(figures, "--out", tmp_path / "out", "--url", stub.url)
    assert done.returncode == 1
    assert "does not take this key" in done.stderr
    assert not (tmp_path / "out.failures.jsonl").read_text()


def test_deployment_of_azure_is_asked_by_its_own_path_and_header(figures: Path, tmp_path: Path):
    with StubEndpoint(good) as stub:
        words = ("--url", stub.url.removesuffix("/v1"), "--azure-api-version", "2024-10-21")
        done = instruct(figures, "--out", tmp_path / "out", *words, "--model", "my-gpt",
                        OPENAI_API_KEY="k")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "out")) == 12
    assert stub.paths == {"/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"}
    assert stub.keys == {"k"}
